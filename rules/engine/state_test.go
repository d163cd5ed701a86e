package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/configs"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

const allOperators = `rules:
  - {id: sample, from: ["v1/+/up/#"], sample: 7s, to: [{kafka: {topic: t}}]}
  - {id: low, from: ["v1/+/up/#"], threshold: {enter: payload.a < 15, exit: payload.a > 20, for: 3s}, to: [{kafka: {topic: t}}]}
  - {id: dedupe, from: ["v1/+/up/#"], dedupe: {by: payload.a, within: 9s}, to: [{kafka: {topic: t}}]}
  - {id: change, from: ["v1/+/up/#"], on_change: payload.b, transform: operator.previous, to: [{kafka: {topic: t}}]}
  - {id: count, from: ["v1/+/up/#"], count: {at_least: 4, window: 20s}, to: [{kafka: {topic: t}}]}
  - {id: quiet, from: ["v1/+/up/#"], silent: 5s, to: [{kafka: {topic: t}}]}
  - {id: keyed, from: ["v1/+/up/#"], on_change: {of: payload.a, deadband: 3, by: payload.b}, to: [{kafka: {topic: t}}]}
  - {id: limit, from: ["v1/+/up/#"], rate_limit: {count: 3, per: 10s}, to: [{kafka: {topic: t}}]}
  - {id: fence, from: ["v1/+/up/#"], geofence: {lat: payload.a, lon: payload.b, zones: {z: {polygon: [[0, 0], [0, 2], [18, 2], [18, 0]]}}}, to: [{kafka: {topic: t}}]}
`

// traffic returns a deterministic mix of messages of several vehicles.
func traffic(n int) []message.Record {
	recs := make([]message.Record, n)
	x := uint64(1)
	for i := range recs {
		x = x*6364136223846793005 + 1442695040888963407
		recs[i] = rulestest.Telemetry(uint64(i+1), rulestest.Epoch+int64(i)*300, fmt.Sprintf(`{"a":%d,"b":%d}`, x>>33%30, x>>40%3))
		recs[i].Topic = fmt.Sprintf("v1/VIN%02d/up/telemetry", x>>50%10)
	}
	return recs
}

// taken collects the output of TakeChanged.
func taken(s *state.State) map[string][]byte {
	all := map[string][]byte{}
	s.TakeChanged(func(vin string, data []byte) { all[vin] = bytes.Clone(data) })
	return all
}

func trace(set *lang.Set, rec *message.Record, ds []Decision) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintf(&b, "%d:%s:%s ", rec.Seq, decisionName(set, d), d.Values)
	}
	return b.String()
}

// TestStateSurvivesRestart evaluates traffic in one go, and again saving the state, discarding the engine and loading
// the state after every few records. Both must decide the same.
func TestStateSurvivesRestart(t *testing.T) {
	t.Parallel()
	set, recs := rulestest.Compile(t, allOperators), traffic(3000)
	whole := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	stored := map[string][]byte{}
	st := state.NewState(state.StateOptions{})
	w := NewEngine(set, st).NewWorker()
	fired := map[string]bool{}
	for i := range recs {
		want := trace(set, &recs[i], whole.Eval(&recs[i], nil))
		got := trace(set, &recs[i], w.Eval(&recs[i], nil))
		if got != want {
			t.Fatalf("record %d: got %s, want %s", i, got, want)
		}
		for _, f := range strings.Fields(want) {
			fired[strings.Split(f, ":")[1]] = true
		}
		if i%7 != 0 {
			continue
		}
		maps.Copy(stored, taken(st))
		if again := taken(st); len(again) != 0 || st.Changed() != 0 {
			t.Fatalf("changed after it was taken: %v", again)
		}
		st = state.NewState(state.StateOptions{})
		for vin, data := range stored {
			check.OK(t, st.Load(vin, data))
		}
		w = NewEngine(rulestest.Compile(t, allOperators), st).NewWorker()
	}
	if len(fired) != 9 {
		t.Errorf("the traffic made only %v fire", fired)
	}
}

// TestShardsRunInParallel evaluates traffic on four goroutines, the records split by shard, and requires the decisions
// of a single goroutine.
func TestShardsRunInParallel(t *testing.T) {
	t.Parallel()
	set, recs := rulestest.Compile(t, allOperators), traffic(2000)
	one := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	want := make([]string, len(recs))
	for i := range recs {
		want[i] = trace(set, &recs[i], one.Eval(&recs[i], nil))
	}
	engine, got := NewEngine(set, state.NewState(state.StateOptions{})), make([]string, len(recs))
	const workers = 4
	var wg sync.WaitGroup
	for n := range workers {
		wg.Go(func() {
			w := engine.NewWorker()
			for i := range recs {
				if state.ShardOf(recs[i].VIN())%workers == n {
					got[i] = trace(set, &recs[i], w.Eval(&recs[i], nil))
				}
			}
		})
	}
	wg.Wait()
	for i := range recs {
		if got[i] != want[i] {
			t.Fatalf("record %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

// TestReloadKeepsStateOfUnchangedOperators changes other parts of the rule, then the operator itself.
func TestReloadKeepsStateOfUnchangedOperators(t *testing.T) {
	t.Parallel()
	rule := func(id, limit, extra string) string {
		return "lists: {l: [" + limit + "]}\nrules:\n  - {id: " + id + ", from: [\"v1/+/up/telemetry\"], " + extra +
			"threshold: {enter: payload.a < 15 and payload.a in l, exit: payload.a > 20}, to: [{kafka: {topic: t}}]}\n"
	}
	st := state.NewState(state.StateOptions{})
	send := func(set *lang.Set, a int) int {
		rec := rulestest.Telemetry(1, rulestest.Epoch, fmt.Sprintf(`{"a":%d}`, a))
		return len(NewEngine(set, st).NewWorker().Eval(&rec, nil))
	}
	if n := send(rulestest.Compile(t, rule("r", "9", "")), 9); n != 1 {
		t.Fatalf("fired %d times", n)
	}
	if n := send(rulestest.Compile(t, rule("r", "9", "when: true, description: x, mode: enabled, ")), 9); n != 0 {
		t.Error("a change outside of the operator has rearmed it")
	}
	taken(st)
	if n := send(rulestest.Compile(t, rule("r", "9, 8", "")), 9); n != 1 {
		t.Error("a change of its list has left the operator's state")
	}
	if n := send(rulestest.Compile(t, rule("s", "9, 8", "")), 9); n != 1 {
		t.Error("another rule id has found the state of the old one")
	}
	dirty := taken(st)
	if len(dirty) != 1 || dirty[rulestest.VIN] == nil {
		t.Errorf("the change of the state is not to be saved: %v", dirty)
	}
	st.Advance(rulestest.Epoch)
	NewEngine(rulestest.Compile(t, "rules: []"), st)
	st.Advance(rulestest.Epoch + 1)
	if changed := taken(st); len(changed) != 0 {
		t.Errorf("what removed operators remember is forgotten at once: %v", changed)
	}
	st.Advance(rulestest.Epoch + 1 + state.KeepRemoved.Milliseconds())
	if dirty := taken(st); len(dirty) != 1 || dirty[rulestest.VIN] != nil || st.VINs() != 0 {
		t.Errorf("state of no operator is kept: %v", dirty)
	}
}

func TestStateIsBounded(t *testing.T) {
	t.Parallel()
	evicted := map[string]int{}
	st := state.NewState(state.StateOptions{MaxVINs: 640, MaxVINBytes: 600, Evicted: func(why string, n int) { evicted[why] += n }})
	set := rulestest.Compile(t, `rules:
  - {id: d, from: ["#"], dedupe: {by: payload.a, within: 1h, max: 1000}, to: [{kafka: {topic: t}}]}
  - {id: c, from: ["#"], count: {at_least: 1000, window: 1h}, to: [{kafka: {topic: t}}]}
`)
	w := NewEngine(set, st).NewWorker()
	for i := range 100 {
		rec := rulestest.Telemetry(uint64(i+1), rulestest.Epoch+int64(i), fmt.Sprintf(`{"a":%d}`, i))
		w.Eval(&rec, nil)
	}
	if n := len(st.Export(rulestest.VIN)); n > 600 || evicted["vin_bytes"] == 0 {
		t.Errorf("%d bytes of one VIN, %v", n, evicted)
	}
	rec := rulestest.Telemetry(101, rulestest.Epoch+101, `{"a":99}`)
	if ds := w.Eval(&rec, nil); len(ds) != 0 {
		t.Error("the newest key was forgotten")
	}
	stored := map[string]bool{}
	for i := range 5000 {
		rec := rulestest.Telemetry(uint64(i+200), rulestest.Epoch+200+int64(i), `{"a":1}`)
		rec.Topic = fmt.Sprintf("v1/VIN%d/up/x", i)
		w.Eval(&rec, nil)
		if i%100 == 99 {
			for vin, data := range taken(st) {
				stored[vin] = data != nil
			}
		}
	}
	kept := 0
	for _, there := range stored {
		if there {
			kept++
		}
	}
	if st.VINs() > 640 || evicted["vins"] < 5000-640 || kept != st.VINs() {
		t.Errorf("%d VINs in memory, %d stored, evicted %v", st.VINs(), kept, evicted)
	}
}

// TestForgettingGoesOnOverARestart evaluates many VINs under a small bound, once in one go and once with restarts, with
// a clock that steps back. Both must forget the same VINs at the same messages, one for each new VIN.
func TestForgettingGoesOnOverARestart(t *testing.T) {
	t.Parallel()
	const bound = 32 * state.Shards
	set := rulestest.Compile(t, `rules: [{id: s, from: ["#"], sample: 1000h, to: [{kafka: {topic: t}}]}]`)
	evicted := 0
	whole := state.NewState(state.StateOptions{MaxVINs: bound, Evicted: func(_ string, n int) { evicted += n }})
	one := NewEngine(set, whole).NewWorker()
	st, stored := state.NewState(state.StateOptions{MaxVINs: bound}), map[string][]byte{}
	w := NewEngine(set, st).NewWorker()
	passed := 0
	x := uint64(3)
	for i := range 12_000 {
		x = x*6364136223846793005 + 1442695040888963407
		rec := rulestest.Telemetry(uint64(i+1), rulestest.Epoch+int64(i), `{}`)
		if i >= 4000 && i < 8000 {
			rec.ReceivedAt -= 3_600_000
		}
		rec.Topic = fmt.Sprintf("v1/VIN%d/up/x", x>>40%3000)
		before, there := whole.VINs(), whole.Export(rec.VIN()) != nil
		evicted = 0
		want := len(one.Eval(&rec, nil))
		if !there && whole.VINs()+evicted != before+1 || evicted > 1 {
			t.Fatalf("message %d forgot %d VINs", i, evicted)
		}
		if got := len(w.Eval(&rec, nil)); got != want {
			t.Fatalf("message %d: %d decisions after restarts, %d without", i, got, want)
		}
		passed += want
		if i%397 != 0 {
			continue
		}
		for vin, data := range taken(st) {
			if stored[vin] = data; data == nil {
				delete(stored, vin)
			}
		}
		st = state.NewState(state.StateOptions{MaxVINs: bound})
		for vin, data := range stored {
			check.OK(t, st.Load(vin, data))
		}
		w = NewEngine(set, st).NewWorker()
	}
	if passed < 3200 {
		t.Errorf("%d messages passed: nothing was forgotten", passed)
	}
}

// TestChangesThatNobodyTakes checks that pending changes stay within the bound while VINs come and go and the
// checkpoint cannot be written.
func TestChangesThatNobodyTakes(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `rules: [{id: s, from: ["#"], sample: 1h, to: [{kafka: {topic: t}}]}]`)
	st := state.NewState(state.StateOptions{MaxVINs: state.Shards})
	w := NewEngine(set, st).NewWorker()
	for i := range 20_000 {
		rec := rulestest.Telemetry(uint64(i+1), rulestest.Epoch+int64(i), `{}`)
		rec.Topic = fmt.Sprintf("v1/VIN%d/up/x", i)
		w.Eval(&rec, nil)
		if n := st.Changed(); n > 5*state.Shards {
			t.Fatalf("%d changes of %d VINs are kept after %d messages", n, state.Shards, i)
		}
		if i == 100 {
			taken(st)
		}
	}
	kept := 0
	for _, data := range taken(st) {
		if data != nil {
			kept++
		}
	}
	if kept != st.VINs() {
		t.Errorf("%d VINs given out, %d are there", kept, st.VINs())
	}
}

func TestLoadRefusesDamage(t *testing.T) {
	t.Parallel()
	st := state.NewState(state.StateOptions{})
	w := NewEngine(rulestest.Compile(t, allOperators), st).NewWorker()
	for _, rec := range traffic(200) {
		w.Eval(&rec, nil)
	}
	good := st.Export("VIN00")
	for n := range len(good) {
		if err := state.NewState(state.StateOptions{}).Load("V", good[:n]); !errors.Is(err, state.ErrBadState) {
			t.Errorf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	if err := state.NewState(state.StateOptions{}).Load("V", append([]byte{9}, good...)); !errors.Is(err, state.ErrBadState) {
		t.Errorf("another version: %v", err)
	}
	s := state.NewState(state.StateOptions{})
	if err := s.Load("V", good); err != nil || !bytes.Equal(s.Export("V"), good) {
		t.Errorf("a stored state does not come back as it was: %v", err)
	}
}

// TestDedupeRemembersAllItsKeys sends the maximum number of keys twice, within the bound of a vehicle's state; then
// more, and each forgotten key must be counted.
func TestDedupeRemembersAllItsKeys(t *testing.T) {
	t.Parallel()
	evicted := map[string]int{}
	w := NewEngine(rulestest.Compile(t, ruleWith("dedupe: {by: payload.id, within: 3650d, max: 1000}", "")), state.NewState(state.StateOptions{
		MaxVINBytes: configs.MaxVINBytes, Evicted: func(reason string, n int) { evicted[reason] += n },
	})).NewWorker()
	seq, passed := uint64(0), 0
	send := func(from, to int) {
		for id := from; id < to; id++ {
			seq++
			rec := rulestest.Telemetry(seq, rulestest.Epoch+int64(seq)*86_400_000, fmt.Sprintf(`{"id":%d}`, id)) //nolint:gosec // small
			passed += len(w.Eval(&rec, nil))
		}
	}
	send(0, 1000)
	send(0, 1000)
	if passed != 1000 || len(evicted) != 0 {
		t.Errorf("%d of 2,000 messages with 1,000 keys passed, forgotten: %v", passed, evicted)
	}
	send(1000, 1100)
	if passed != 1100 || evicted["rule_entries"] != 100 {
		t.Errorf("%d passed, forgotten: %v", passed, evicted)
	}
}

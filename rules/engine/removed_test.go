package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

const (
	lowRule  = `{id: low, from: ["#"], threshold: {enter: payload.a < 15, exit: payload.a > 20}, to: [{kafka: {topic: t}}]}`
	onceRule = `{id: once, from: ["#"], dedupe: {by: payload.a, within: 30d, max: 1000}, to: [{kafka: {topic: t}}]}`
)

func setOf(t *testing.T, rules ...string) *lang.Set {
	t.Helper()
	return rulestest.Compile(t, "rules: ["+strings.Join(rules, ", ")+"]")
}

// timedState is a state together with the journal's time.
type timedState struct {
	t     *testing.T
	state *state.State
	w     *Worker
	now   int64
	seq   uint64
}

// apply does what the dispatcher does when a rule set takes effect.
func (j *timedState) apply(set *lang.Set) {
	j.state.Advance(j.now)
	j.w = NewEngine(set, j.state).NewWorker()
	j.state.Advance(j.now)
}

func (j *timedState) send(payload string) int {
	j.seq++
	rec := rulestest.Telemetry(j.seq, j.now, payload)
	j.state.Advance(j.now)
	return len(j.w.Eval(&rec, nil))
}

func (j *timedState) pass(hours float64) { j.now += int64(hours * 3600_000) }

// A rule that is removed and restored within a day does not fire twice. Restored later, it has lost its memory and
// fires.
func TestRemovedRulesAreRememberedForADay(t *testing.T) {
	t.Parallel()
	for _, other := range [][]string{{}, {onceRule}, {strings.Replace(lowRule, "15", "14", 1)}, {strings.Replace(lowRule, "low", "lower", 1)}} {
		j := &timedState{t: t, state: state.NewState(state.StateOptions{}), now: rulestest.Epoch}
		low := setOf(t, lowRule)
		j.apply(low)
		if n := j.send(`{"a":9}`); n != 1 {
			t.Fatalf("fired %d times", n)
		}
		for _, hours := range []float64{0, 1, 23.99} {
			j.apply(setOf(t, other...))
			j.send(`{"a":30}`)
			j.pass(hours)
			j.apply(low)
			if n := j.send(`{"a":9}`); n != 0 {
				t.Errorf("%v: fired again after %v h", other, hours)
			}
		}
		j.apply(setOf(t, other...))
		j.pass(12)
		j.send(`{"a":30}`)
		j.pass(12)
		if j.send(`{"a":31}`); len(other) == 0 && j.state.VINs() != 0 {
			t.Error("what a rule remembered is kept for more than a day")
		}
		j.apply(low)
		if n := j.send(`{"a":9}`); n != 1 {
			t.Errorf("%v: fired %d times after a day", other, n)
		}
	}
}

// Memory without an operator expires even if nothing is received in the meantime.
func TestADayWithoutMessages(t *testing.T) {
	t.Parallel()
	j := &timedState{t: t, state: state.NewState(state.StateOptions{}), now: rulestest.Epoch}
	low := setOf(t, lowRule)
	j.apply(low)
	j.send(`{"a":9}`)
	j.apply(setOf(t))
	j.pass(24)
	j.apply(low)
	if n := j.send(`{"a":9}`); n != 1 {
		t.Errorf("fired %d times", n)
	}
}

// A replay from any position with the state stored there decides as the first time, and so does a restart.
func TestRemovedRulesAreDeterministic(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	sets := []*lang.Set{setOf(t, lowRule, onceRule), setOf(t), setOf(t, lowRule), setOf(t, onceRule), setOf(t, strings.Replace(lowRule, "15", "12", 1))}
	whole := &timedState{t: t, state: state.NewState(state.StateOptions{}), now: rulestest.Epoch}
	parts := &timedState{t: t, state: state.NewState(state.StateOptions{}), now: rulestest.Epoch}
	both := func(do func(j *timedState) int) {
		t.Helper()
		if a, b := do(whole), do(parts); a != b {
			t.Fatalf("%d without restarts, %d with", a, b)
		}
	}
	set := sets[0]
	both(func(j *timedState) int { j.apply(set); return 0 })
	stored, fired, forgot := map[string][]byte{}, 0, 0
	for range 4000 {
		switch rnd.IntN(10) {
		case 0:
			set = sets[rnd.IntN(len(sets))]
			before := whole.state.VINs()
			both(func(j *timedState) int { j.apply(set); return j.state.VINs() })
			forgot += before - whole.state.VINs()
		case 1: // a checkpoint, and a start from it
			maps.Copy(stored, taken(parts.state))
			removed := parts.state.AppendRemoved(nil)
			parts.state = state.NewState(state.StateOptions{})
			check.OK(t, parts.state.LoadRemoved(removed))
			for vin, data := range stored {
				check.OK(t, parts.state.Load(vin, data))
			}
			parts.w = NewEngine(set, parts.state).NewWorker()
		default:
			hours, a, vin := rnd.Float64()*3, rnd.IntN(30), rnd.IntN(5)
			both(func(j *timedState) int {
				j.pass(hours)
				j.seq++
				rec := rulestest.Telemetry(j.seq, j.now, fmt.Sprintf(`{"a":%d}`, a))
				rec.Topic = fmt.Sprintf("v1/VIN%d/up/telemetry", vin)
				j.state.Advance(j.now)
				n := len(j.w.Eval(&rec, nil))
				fired += n
				return n<<16 + j.state.VINs()
			})
		}
	}
	if fired == 0 {
		t.Error("nothing fired")
	}
}

// Memory of removed rules gives way to that of existing rules within a VIN's bound.
func TestRemovedRulesGiveWay(t *testing.T) {
	t.Parallel()
	evicted := map[string]int{}
	j := &timedState{t: t, state: state.NewState(state.StateOptions{MaxVINBytes: 4000, Evicted: func(why string, n int) { evicted[why] += n }}), now: rulestest.Epoch}
	j.apply(setOf(t, onceRule))
	for i := range 190 {
		j.send(fmt.Sprintf(`{"a":%d}`, i))
	}
	j.apply(setOf(t, strings.Replace(onceRule, "once", "again", 1)))
	for i := range 190 {
		j.send(fmt.Sprintf(`{"a":%d}`, i))
	}
	if evicted["vin_bytes"] != 0 || evicted["removed_rules"] != 1 {
		t.Errorf("evicted %v", evicted)
	}
	for i := range 190 {
		if n := j.send(fmt.Sprintf(`{"a":%d}`, i)); n != 0 {
			t.Fatalf("key %d was forgotten for the sake of a rule that is gone", i)
		}
	}
}

// The number of operators without rules is bounded: those removed first are dropped first.
func TestRemovedRulesAreBounded(t *testing.T) {
	t.Parallel()
	evicted := 0
	s := state.NewState(state.StateOptions{Evicted: func(_ string, n int) { evicted += n }})
	const maxRemoved = 1 << 16
	var b []byte
	for i := range maxRemoved {
		b = binary.AppendVarint(binary.BigEndian.AppendUint64(b, uint64(i+1)), rulestest.Epoch+int64(i)) //nolint:gosec // small
	}
	check.OK(t, s.LoadRemoved(b))
	set := setOf(t, lowRule)
	rec := message.Record{Kind: message.KindPublish, Topic: "v1/V/up/telemetry", Payload: []byte(`{"a":9}`), ReceivedAt: rulestest.Epoch + maxRemoved}
	NewEngine(set, s).NewWorker().Eval(&rec, nil)
	NewEngine(setOf(t), s)
	n, version := s.Removed()
	b = s.AppendRemoved(nil)
	if first := binary.BigEndian.Uint64(b); n != maxRemoved || evicted != 1 || first == 1 {
		t.Errorf("%d operators, %d evicted, %d is the first", n, evicted, first)
	}
	loaded := state.NewState(state.StateOptions{})
	if err := loaded.LoadRemoved(b); err != nil || !bytes.Equal(loaded.AppendRemoved(nil), b) {
		t.Errorf("%v", err)
	}
	if err := loaded.LoadRemoved(b[:len(b)-1]); !errors.Is(err, state.ErrBadState) {
		t.Errorf("damaged: %v", err)
	}
	s.Advance(rulestest.Epoch + maxRemoved)
	if _, later := s.Removed(); later == version {
		t.Error("the time of a removal is no change")
	}
}

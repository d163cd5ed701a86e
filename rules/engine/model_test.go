package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

// sighting is a message as the model of an operator sees it: all messages of a vehicle, in order.
type sighting struct {
	at   int64 // ms after rulestest.Epoch
	v    int   // a field of the payload; 0: missing
	k    int   // another field
	seen int64 // event time, ms after rulestest.Epoch
}

func (s sighting) payload() string {
	if s.v == 0 {
		return fmt.Sprintf(`{"k":%d,"ts":%d}`, s.k, rulestest.Epoch+s.seen)
	}
	return fmt.Sprintf(`{"v":%d,"k":%d,"ts":%d}`, s.v, s.k, rulestest.Epoch+s.seen)
}

// modelCase is an operator and an obviously correct model of it: the model returns what the operator sends for the
// messages of a vehicle until a time. An output is a time in ms after rulestest.Epoch and the values as JSON.
type modelCase struct {
	name, rule string
	model      func(of []sighting, j *journalTimes) []string
}

func modelCases() []modelCase {
	const change = "{p: operator.previous, e: operator.elapsed}"
	return append(passCases(), []modelCase{
		{"silent", ruleWith("silent: 9s", ""), silentModel},
		{"average", ruleWith("average: {of: payload.v, window: 10s}", ""), averageModel},
		{"aggregate", ruleWith("aggregate: {window: 10s, min: payload.v, max: payload.v, sum: payload.v, count: payload.v, last: payload.k}", ""), aggregateModel},
		{"count of", ruleWith("count: {of: payload.v, window: 10s}", ""), countOfModel},
		{"average by event time", schemaTS + ruleWith("time: event\n    average: {of: payload.v, window: 10s}", ""), eventAverageModel},
		{"on_change", ruleWith("on_change: payload.v", change), changeModel{}.run},
		{
			"on_change with all", ruleWith("on_change: {of: payload.v, deadband: 2, at_most_every: 3s, at_least_every: 8s, first: false}", change),
			changeModel{deadband: 2, pause: 3000, beat: 8000, quiet: true}.run,
		},
		{"count by", ruleWith("count: {at_least: 3, window: 12s, by: payload.k, max: 2}", "[operator.count, operator.first]"), countByModel},
		{"threshold by", ruleWith("threshold: {enter: payload.v > 4, exit: payload.v < 3, for: 4s, by: payload.k}", "operator.since"), thresholdByModel},
		{"count by event time", schemaTS + ruleWith("time: event\n    count: {at_least: 3, window: 12s}", "[operator.count, operator.first]"), eventCountModel},
		{"having", ruleWith("on_change: payload.v\n    having: operator.previous - payload.v > 2", change), changeModel{drop: 2}.run},
	}...)
}

const schemaTS = "schema: {event_at: ts}\n"

// journalTimes has the end of a script and its pauses.
type journalTimes struct {
	until  int64
	pauses [][2]int64
}

func stamped(at int64) string { return fmt.Sprintf(`{"ms":%d}`, rulestest.Epoch+at) }

func silentModel(of []sighting, j *journalTimes) (out []string) {
	for i, s := range of {
		next := j.until
		if i+1 < len(of) {
			next = of[i+1].at
		}
		end := s.at + 9000
		for _, p := range j.pauses {
			if p[1] > s.at && end > p[0] {
				end = p[1] + 9000
			}
		}
		if end <= next {
			out = append(out, fmt.Sprintf(`%d {"last":%s}`, end, stamped(s.at)))
		}
	}
	return out
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// windows groups the sightings selected by counts into the ended windows of 10 s.
func windows(of []sighting, j *journalTimes, counts func(s sighting) bool, send func(in []sighting) string) (out []string) {
	for i := 0; i < len(of); {
		begin := of[i].at / 10_000 * 10_000
		var in []sighting
		for ; i < len(of) && of[i].at < begin+10_000; i++ {
			if counts(of[i]) {
				in = append(in, of[i])
			}
		}
		if len(in) > 0 && begin+10_000 <= j.until {
			out = append(out, fmt.Sprintf(`%d {%s,"start":%s,"end":%s}`, begin+10_000, send(in), stamped(begin), stamped(begin+10_000)))
		}
	}
	return out
}

func hasV(s sighting) bool { return s.v != 0 }

func total(in []sighting) (n int) {
	for _, s := range in {
		n += s.v
	}
	return n
}

func averageOf(in []sighting) string {
	return fmt.Sprintf(`"average":%s,"count":%d`, number(float64(total(in))/float64(len(in))), len(in))
}

func averageModel(of []sighting, j *journalTimes) []string { return windows(of, j, hasV, averageOf) }

func countOfModel(of []sighting, j *journalTimes) []string {
	return windows(of, j, hasV, func(in []sighting) string { return fmt.Sprintf(`"count":%d`, len(in)) })
}

func aggregateModel(of []sighting, j *journalTimes) []string {
	return windows(of, j, func(sighting) bool { return true }, func(in []sighting) string {
		last := fmt.Sprintf(`"last":%d`, in[len(in)-1].k)
		if in = slices.DeleteFunc(slices.Clone(in), func(s sighting) bool { return s.v == 0 }); len(in) == 0 {
			return `"count":0,` + last
		}
		return fmt.Sprintf(`"min":%d,"max":%d,"sum":%d,"count":%d,%s`, slices.MinFunc(in, byV).v, slices.MaxFunc(in, byV).v, total(in), len(in), last)
	})
}

// eventAverageModel closes a window when the vehicle's clock passes its end, or one window length after it was opened
// or ended.
func eventAverageModel(of []sighting, j *journalTimes) (out []string) {
	var in []sighting
	begin, due, closed := int64(0), int64(0), int64(math.MinInt64)
	shut := func() {
		out = append(out, fmt.Sprintf(`%d {%s,"start":%s,"end":%s}`, begin+10_000, averageOf(in), stamped(begin), stamped(begin+10_000)))
		in, closed = nil, begin+10_000
	}
	for _, s := range of {
		if len(in) > 0 && s.at >= due {
			shut()
		}
		if s.seen < closed || len(in) > 0 && s.seen < begin {
			continue
		}
		if len(in) > 0 && s.seen >= begin+10_000 {
			shut()
		}
		if s.v == 0 {
			continue
		}
		if len(in) == 0 {
			begin = int64(math.Floor(float64(s.seen)/10_000)) * 10_000
			due = max(begin+10_000, s.at) + 10_000
		}
		in = append(in, s)
	}
	if len(in) > 0 && due <= j.until {
		shut()
	}
	return out
}

// changeModel models on_change. If drop is set, it sends only when the value has fallen by more than drop.
type changeModel struct {
	deadband, drop int
	pause, beat    int64
	quiet          bool
}

func (c changeModel) run(of []sighting, _ *journalTimes) (out []string) {
	var before *sighting
	for _, s := range of {
		if s.v == 0 {
			continue
		}
		given := `{}`
		if before != nil {
			ago, by := s.at-before.at, max(s.v-before.v, before.v-s.v)
			if (c.beat == 0 || ago < c.beat) && (by < max(1, c.deadband) || ago < c.pause) {
				continue
			}
			given = fmt.Sprintf(`{"previous":%d,"elapsed":%s}`, before.v, number(float64(ago)/1000))
		}
		if (before != nil || !c.quiet) && (c.drop == 0 || before != nil && before.v-s.v > c.drop) {
			out = append(out, fmt.Sprintf("%d %s", s.at, given))
		}
		before = &s
	}
	return out
}

// countByModel keeps the two values of k that changed last.
func countByModel(of []sighting, _ *journalTimes) (out []string) {
	kept, order := map[int][]int64{}, []int{}
	for _, s := range of {
		order = append(slices.DeleteFunc(order, func(k int) bool { return k == s.k }), s.k)
		if len(order) > 2 {
			delete(kept, order[0])
			order = order[1:]
		}
		kept[s.k] = slices.DeleteFunc(append(kept[s.k], s.at), func(at int64) bool { return at <= s.at-12_000 && at != s.at })
		if len(kept[s.k]) == 3 {
			out = append(out, fmt.Sprintf(`%d {"count":3,"first":%s}`, s.at, stamped(kept[s.k][0])))
			kept[s.k] = nil
		}
	}
	return out
}

func thresholdByModel(of []sighting, _ *journalTimes) (out []string) {
	type memory struct {
		since  int64
		high   bool
		active bool
	}
	all := map[int]*memory{}
	for _, s := range of {
		m := all[s.k]
		if m == nil {
			m = &memory{}
			all[s.k] = m
		}
		switch {
		case s.v == 0:
		case m.active:
			if s.v < 3 {
				*m = memory{}
			}
		case s.v <= 4:
			*m = memory{}
		default:
			if !m.high {
				m.high, m.since = true, s.at
			}
			if m.active = s.at-m.since >= 4000; m.active {
				out = append(out, fmt.Sprintf(`%d {"since":%s}`, s.at, stamped(m.since)))
			}
		}
	}
	return out
}

func eventCountModel(of []sighting, _ *journalTimes) (out []string) {
	var kept []int64
	latest := int64(math.MinInt64)
	for _, s := range of {
		if s.seen < latest {
			continue
		}
		latest = s.seen
		kept = slices.DeleteFunc(append(kept, s.seen), func(at int64) bool { return at <= s.seen-12_000 })
		if len(kept) == 3 {
			out = append(out, fmt.Sprintf(`%d {"count":3,"first":%s}`, s.at, stamped(kept[0])))
			kept = nil
		}
	}
	return out
}

// play runs a script: each three bytes are a message, a tick or a restart, and the time that passes before it. It
// returns the messages and outputs by vehicle, and the time at the end.
func play(t *testing.T, set *lang.Set, script []byte) (seen map[string][]sighting, sent map[string][]string, j *journalTimes) {
	t.Helper()
	st := state.NewState(state.StateOptions{})
	w := NewEngine(set, st).NewWorker()
	seen, sent, j = map[string][]sighting{}, map[string][]string{}, &journalTimes{}
	var now, last int64
	stored := map[string][]byte{}
	note := func(rec *message.Record) {
		if rec.TickBegins() {
			st.Begin(rec.ReceivedAt)
			j.pauses = append(j.pauses, [2]int64{last, now})
		}
		st.Advance(rec.ReceivedAt)
		last = now
		for _, d := range w.Eval(rec, nil) {
			if d.Err != "" {
				t.Fatal(d.Err)
			}
			d, _, err := DecodeDecision(d.Append(nil))
			check.OK(t, err)
			of := d.Record(rec)
			sent[of.VIN()] = append(sent[of.VIN()], fmt.Sprintf("%d %s", of.ReceivedAt-rulestest.Epoch, d.Values))
		}
	}
	for ; len(script) >= 3; script = script[3:] {
		now += int64(script[1]) * 50
		switch kind := script[0] % 8; kind {
		case 0:
			note(&message.Record{Kind: message.KindTick, ReceivedAt: rulestest.Epoch + now})
		case 1:
			for vin, data := range taken(st) {
				stored[vin] = data
			}
			listening := st.Listening()
			st = state.NewState(state.StateOptions{})
			st.SetListening(listening)
			for vin, data := range stored {
				check.OK(t, st.Load(vin, data))
			}
			w = NewEngine(set, st).NewWorker()
			if script[2]%2 == 0 {
				note(&message.Record{Kind: message.KindTick, ReceivedAt: rulestest.Epoch + now, Payload: message.Tick(true).Payload})
			}
		default:
			vin := fmt.Sprintf("VIN%d", script[0]>>3%2)
			s := sighting{at: now, v: int(script[2] % 8), k: int(script[2] >> 3 % 4), seen: now - int64(script[2]>>5)*500}
			seen[vin] = append(seen[vin], s)
			rec := rulestest.Telemetry(1, rulestest.Epoch+now, s.payload())
			rec.Topic = "v1/" + vin + "/up/telemetry"
			note(&rec)
		}
	}
	now += 60_000
	for range 3 { // one tick may not do everything
		note(&message.Record{Kind: message.KindTick, ReceivedAt: rulestest.Epoch + now})
	}
	j.until = now
	return seen, sent, j
}

func checkModel(t *testing.T, c modelCase, set *lang.Set, script []byte) {
	t.Helper()
	seen, sent, j := play(t, set, script)
	for vin, of := range seen {
		if want := c.model(of, j); !slices.Equal(sent[vin], want) {
			t.Fatalf("%s of %s: sent\n%s\nwant\n%s\nof %v", c.name, vin, strings.Join(sent[vin], "\n"), strings.Join(want, "\n"), of)
		}
	}
}

// TestOperatorsAsModelled compares every operator with its model, with ticks and restarts anywhere.
func TestOperatorsAsModelled(t *testing.T) {
	t.Parallel()
	for _, c := range modelCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(7, 11)) //nolint:gosec // a test's choices
			set := rulestest.Compile(t, c.rule)
			for range 40 {
				script := make([]byte, 3*rnd.IntN(120))
				for i := range script {
					script[i] = byte(rnd.Uint32())
					if i%3 == 1 && rnd.IntN(4) > 0 {
						script[i] %= 30
					}
				}
				checkModel(t, c, set, script)
			}
		})
	}
}

// FuzzOperators compares operators with their models for any script.
func FuzzOperators(f *testing.F) {
	f.Add([]byte{2, 10, 9, 2, 200, 9, 0, 200, 0, 1, 0, 0, 2, 1, 17})
	cases := modelCases()
	sets := make([]*lang.Set, len(cases))
	for i := range cases {
		sets[i] = rulestest.Compile(f, cases[i].rule)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 600 {
			t.Skip("longer ones only take longer")
		}
		for i, c := range cases {
			checkModel(t, c, sets[i], script)
		}
	})
}

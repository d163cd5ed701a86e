package sink_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/rules/state"
	"cellgate/rules/workbench"
	"cellgate/test/check"
)

// limitRules: the rule "bad" fails for a text. The other one sees the same messages and has no limit.
const limitRules = `
rules:
  - id: bad
    from: ["v1/+/up/telemetry"]
    when: payload.x > 3
    to: [{kafka: {topic: bad}}, {redis: {publish: "bad-${vin}"}}]
    limits: {errors: 5% per 20s then shadow}
  - {id: free, from: ["v1/+/up/telemetry"], when: payload.x > 3, to: [{kafka: {topic: free}}]}
`

// limitRig sends messages with a value x of many vehicles, ten a second.
type limitRig struct {
	*timeRig
	n    int
	lags bool // the sinks take nothing: messages do not settle
}

func newLimitRig(t *testing.T, change func(*sink.Options)) *limitRig {
	t.Helper()
	return &limitRig{timeRig: newTimeRig(t, limitRules, change)}
}

func (r *limitRig) send(n, vehicles int, x string) {
	for range n {
		r.machine.Pass(100 * time.Millisecond)
		rec := sinktest.Telemetry(r.n)
		v := fmt.Sprintf("LTEST%012d", r.n%vehicles)
		rec.Client, rec.Topic, rec.Payload = v, "v1/"+v+"/up/telemetry", fmt.Appendf(nil, `{"x":%s}`, x)
		r.Append(rec)
		r.n++
	}
	if !r.lags {
		r.Settled()
	}
}

// window waits for the beginning of the next window.
func (r *limitRig) window() {
	r.machine.Pass(time.Duration(20_000-r.machine.Wall().UnixMilli()%20_000) * time.Millisecond)
}

func (r *limitRig) held() bool {
	for _, l := range r.Dispatcher.Limited() {
		if l.Rule == "bad" {
			return l.Held != nil
		}
	}
	return false
}

// trips causes errors of several vehicles until the rule is held.
func (r *limitRig) trips(t *testing.T) {
	t.Helper()
	r.window()
	r.send(100, 9, "7")
	r.send(12, 9, `"seven"`)
	r.send(12, 9, "7")
	r.Await(r.held)
}

// sent counts the rule's messages to Kafka, errors included.
func (r *limitRig) sent() (n int) {
	for _, m := range r.kafka.Taken() {
		if m.Rule == "bad" {
			n++
		}
	}
	return n
}

// TestALimitHoldsARule checks that a rule with too many errors sends nothing after the record in the journal, also
// after a reload; a changed rule, and one whose limit an operator lifts, sends again.
func TestALimitHoldsARule(t *testing.T) {
	t.Parallel()
	r := newLimitRig(t, nil)
	r.trips(t)
	before := r.sent()
	r.send(40, 9, "7")
	r.send(40, 9, `"x"`)
	if n := r.sent(); n != before {
		t.Fatalf("a held rule sends: %d messages, then %d", before, n)
	}
	if c := r.Dispatcher.RuleCounts()["bad"]; c.Matched < 140 || c.Errors < 52 {
		t.Errorf("a held rule is not counted: %+v", c)
	}
	r.Apply("# the same\n" + strings.Replace(limitRules, "rules:", "rules:\n  - {id: more, from: [\"v1/+/up/x\"], to: [{kafka: {topic: t}}]}", 1))
	r.send(4, 9, "7")
	if !r.held() || r.sent() != before {
		t.Fatal("a reload that does not change the rule lifts its limit")
	}
	r.Kill()
	r.Open()
	r.send(4, 9, "7")
	if !r.held() {
		t.Fatal("a restart lifts the limit")
	}
	check.OK(t, r.Dispatcher.Lift(t.Context(), "bad"))
	before = r.sent()
	r.send(10, 9, "7")
	if r.held() || r.sent() != before+10 {
		t.Fatalf("a lifted rule sends %d of 10", r.sent()-before)
	}
	if err := r.Dispatcher.Lift(t.Context(), "bad"); !errors.Is(err, sink.ErrNotHeld) {
		t.Errorf("lifted twice: %v", err)
	}
	r.trips(t)
	r.Apply(strings.Replace(limitRules, "payload.x > 3", "payload.x > 4", 1))
	before = r.sent()
	r.send(10, 9, "7")
	if r.held() || r.sent() != before+10 {
		t.Fatalf("a mended rule sends %d of 10", r.sent()-before)
	}
	r.Balanced()
	r.Stop()
}

// TestLimitsAreNotForVehicles checks that errors below the share, in few messages, or of one vehicle hold no rule; nor
// do payloads that are not JSON.
func TestLimitsAreNotForVehicles(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(r *limitRig){
		"few messages": func(r *limitRig) { r.send(70, 9, `"x"`) },
		"few errors":   func(r *limitRig) { r.send(120, 9, "7"); r.send(3, 9, `"x"`) },
		"one vehicle":  func(r *limitRig) { r.send(100, 9, "7"); r.send(200, 1, `"x"`) },
		"not JSON":     func(r *limitRig) { r.send(100, 9, "7"); r.send(200, 9, "{{") },
		"two windows": func(r *limitRig) {
			for range 6 { // 8 % and 92 messages in each
				r.window()
				r.send(60, 9, "7")
				r.send(6, 9, `"x"`)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newLimitRig(t, nil)
			send(r)
			r.send(8, 9, "7")
			r.records(t, func(rec *message.Record) {
				if rec.Kind == message.KindLimit {
					t.Errorf("the journal has %s", rec.Payload)
				}
			})
			r.Stop()
		})
	}
}

// TestLimitsAreReplayed checks that the messages of a rule with a limit depend only on the journal: live with one or
// several workers, with kills, over the decision logs of lagging sinks and a reload, and in a backtest.
func TestLimitsAreReplayed(t *testing.T) {
	t.Parallel()
	drive := func(r *limitRig, t *testing.T, during func(part int)) {
		t.Helper()
		for part := range 3 {
			r.window()
			r.send(100, 9, "7")
			during(3 * part)
			for range 4 {
				r.send(3, 9, `"seven"`)
				during(3*part + 1)
			}
			r.send(20, 9, "7")
			r.Await(r.held)
			during(3*part + 2)
			r.send(20, 9, "7")
			if part < 2 {
				check.OK(t, r.Dispatcher.Lift(t.Context(), "bad"))
			}
		}
	}
	for name, run := range map[string]func(t *testing.T) *limitRig{
		"live": func(t *testing.T) *limitRig {
			t.Helper()
			r := newLimitRig(t, nil)
			drive(r, t, func(int) {})
			return r
		},
		"one worker": func(t *testing.T) *limitRig {
			t.Helper()
			r := newLimitRig(t, func(o *sink.Options) { o.Workers = 1 })
			drive(r, t, func(int) {})
			return r
		},
		"kill": func(t *testing.T) *limitRig {
			t.Helper()
			r := newLimitRig(t, nil)
			drive(r, t, func(int) {
				r.Kill()
				r.Open()
			})
			return r
		},
		"lag over a reload": func(t *testing.T) *limitRig {
			t.Helper()
			r := newLimitRig(t, func(o *sink.Options) {
				for i := range o.Sinks {
					o.Sinks[i].Limits.Messages = 2
				}
			})
			r.lags = true
			r.kafka.Hold(true)
			r.redis.Hold(true)
			drive(r, t, func(part int) {
				switch part {
				case 1, 4:
					r.Apply(limitRules + "# again\n")
				case 5:
					r.Apply(limitRules)
				case 6:
					r.kafka.Hold(false)
				}
			})
			r.redis.Hold(false)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t)
			r.Settled()
			got, want := r.outputs(t), r.replayLimits(t)
			if len(got) < 600 || !slices.Equal(got, want) {
				t.Fatalf("%d messages, want %d\nmore:\n%s\nfewer:\n%s", len(got), len(want),
					strings.Join(difference(got, want), "\n"), strings.Join(difference(want, got), "\n"))
			}
			r.Balanced()
			r.Stop()
		})
	}
}

// replayLimits evaluates the rig's journal again and returns the result with a backtest's counts.
func (r *limitRig) replayLimits(t *testing.T) (out []string) {
	t.Helper()
	dir := rulestest.WriteFiles(t, map[string]string{"t.rules.yaml": limitRules})
	trial, err := workbench.NewTrial(dir, rulestest.Options("cell-1"), state.StateOptions{})
	check.OK(t, err)
	set := rulestest.Compile(t, limitRules)
	w := engine.NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	limits := engine.Limits{Exceeded: func(message.Limit) {}}
	limits.Use(set.Compiled, []engine.Counter{w})
	var made op.Rendered
	var asked, met []message.Limit
	limits.Exceeded = func(l message.Limit) { asked = append(asked, l) }
	r.records(t, func(rec *message.Record) {
		trial.Add(rec)
		switch rec.Kind {
		case message.KindLimit:
			l, changed, err := limits.Apply(rec)
			check.OK(t, err)
			if changed && !l.Lifted {
				met = append(met, l)
			}
			return
		case message.KindPublish:
			limits.Reach(rec.ReceivedAt, rec.Seq)
		}
		for _, d := range w.Eval(rec, nil) {
			if d.Shadow {
				continue
			}
			check.OK(t, w.Render(d, rec, &made))
			where, what := made.Topic, made.Value
			if made.Sink == op.SinkRedis {
				where, what = made.Redis.Key, made.Redis.Value
			}
			out = append(out, fmt.Sprintf("%s %s %s %s", rec.VIN(), set.RuleID(d.Rule), where, what))
		}
	})
	if len(met) != 3 || !slices.Equal(asked, met) {
		t.Errorf("a replay finds too many errors at %+v, the journal has %+v", asked, met)
	}
	if c := trial.Rules[0]; c.Exceeded != met[0].Decided || !c.Held || c.Shadow == 0 {
		t.Errorf("a backtest tells %+v", c)
	}
	sent := len(slices.DeleteFunc(slices.Clone(out), func(s string) bool { return strings.Contains(s, "rule-errors") }))
	counted := uint64(0)
	for _, c := range trial.Rules {
		for _, n := range c.Targets {
			counted += n
		}
	}
	if counted != uint64(sent) {
		t.Errorf("a backtest sends %d messages, a replay %d", counted, sent)
	}
	slices.Sort(out)
	return out
}

package sink_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testRules = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to:
      - kafka: {topic: t}
  - id: hot
    from: ["v1/+/up/telemetry"]
    when: payload.h == 0
    to:
      - redis: {publish: "ch:${vin}", value: payload.n}
  - id: broken
    from: ["v1/+/up/bad"]
    when: payload.x > 3
    to:
      - kafka: {topic: t}
  - id: low
    from: ["v1/+/up/telemetry"]
    threshold: {enter: payload.k == 9, exit: payload.k == 0}
    to:
      - kafka: {topic: low}
`

// memRig is a rig with sinks in memory that outlive its restarts.
type memRig struct {
	*sinktest.Rig
	kafka, redis *sinktest.Memory
}

func newRig(t *testing.T, change func(*sink.Options)) *memRig {
	t.Helper()
	m := &memRig{kafka: sinktest.NewMemory(op.SinkKafka), redis: sinktest.NewMemory(op.SinkRedis)}
	m.Rig = sinktest.New(t, sinktest.Setup{
		Rules:  testRules,
		Change: change,
		Sinks:  func() []sink.Binding { return []sink.Binding{{Sink: m.kafka}, {Sink: m.redis}} },
	})
	return m
}

func TestDispatchDeliversAndAccounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Publish(0, 300)
	r.Settled()
	if l := r.Ledger("kafka"); l.Received != 300 || l.Delivered != 300 {
		t.Fatalf("kafka: %+v", l)
	}
	if l := r.Ledger("redis"); l.Received != 300 || l.Delivered != 100 || l.Filtered != 200 {
		t.Fatalf("redis: %+v", l)
	}
	if n := len(r.redis.Taken()); n != 100 {
		t.Fatalf("%d messages in redis", n)
	}
	sinktest.InOrder(t, r.kafka.Taken())
	r.Stop()
}

func TestLedgerSurvivesAStop(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Publish(0, 100)
	r.Settled()
	before, n := r.Dispatcher.Ledger(), len(r.kafka.Taken())
	r.Stop()
	r.Open()
	r.Settled()
	if after := r.Dispatcher.Ledger(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("ledger after restart %+v, before %+v", after, before)
	}
	if again := len(r.kafka.Taken()); again != n {
		t.Fatalf("%d messages after a clean restart, %d before", again, n)
	}
	r.Stop()
}

func TestUnavailableSinkIsFedFromItsLog(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) {
		for i := range o.Sinks {
			o.Sinks[i].Limits.Messages = 64
		}
	})
	r.redis.Hold(true)
	r.Publish(0, 3000)
	r.Await(func() bool { return r.Ledger("kafka").Delivered == 3000 })
	r.Balanced()
	r.Evaluated("redis", 1000)
	if l := r.Ledger("redis"); l.Delivered != 0 {
		t.Fatalf("redis while away: %+v", l)
	}
	if n := r.redis.Peak(); n > 64 {
		t.Fatalf("%d messages under way, the bound is 64", n)
	}
	r.redis.Hold(false)
	r.Settled()
	recs := r.redis.Taken()
	if len(recs) != 1000 {
		t.Fatalf("%d messages", len(recs))
	}
	r.Await(func() bool { return r.Dispatcher.Lag()[1].Live })
	r.Publish(3000, 300)
	r.Settled()
	if n := len(r.redis.Taken()); n != 1100 {
		t.Fatalf("%d messages after turning live again", n)
	}
	sinktest.InOrder(t, r.redis.Taken())
	r.Await(func() bool { return r.Dispatcher.Lag()[1].LogBytes < 20<<10 })
	r.Stop()
}

// TestOneDeadLetterPerMessageThatCannotBeDecoded sends 8 bytes to many rules of two sinks, live and from the decision log.
func TestOneDeadLetterPerMessageThatCannotBeDecoded(t *testing.T) {
	t.Parallel()
	text := "rules:\n"
	for i := range 100 {
		text += fmt.Sprintf("  - {id: k%d, from: [\"#\"], when: payload.x == %d, to: [{kafka: {topic: t}}]}\n", i, i)
		text += fmt.Sprintf("  - {id: r%d, from: [\"#\"], to: [{redis: {hash: h%d, fields: payload}}], on_error: {kafka: {topic: own}}}\n", i, i)
	}
	for _, logged := range []bool{false, true} {
		t.Run(fmt.Sprintf("logged %t", logged), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages = 1 })
			r.kafka.Hold(logged)
			r.Apply(text)
			for range 3 {
				r.Append(message.Record{Kind: message.KindPublish, Client: "s", Topic: "v1/" + sinktest.VIN(1) + "/up/bad", Payload: []byte("not json")})
			}
			r.Evaluated("redis", 0)
			r.kafka.Hold(false)
			r.Settled()
			if all := r.kafka.Taken(); len(all) != 3 || !all[0].Dead || all[0].Topic != rulestest.ErrorTopic {
				t.Fatalf("%d dead letters of 3 messages: %+v", len(all), all[:min(3, len(all))])
			}
			if k, red := r.Ledger("kafka"), r.Ledger("redis"); k.DeadLettered != 3 || red.Filtered != 3 || red.DeadLettered != 0 {
				t.Errorf("kafka %+v, redis %+v", k, red)
			}
			r.Stop()
		})
	}
}

func TestEvaluationErrorsAreDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Append(message.Record{
		Kind: message.KindPublish, Client: "s", Topic: "v1/" + sinktest.VIN(1) + "/up/bad", Payload: []byte(`{"x":"text"}`),
	})
	r.Await(func() bool { return r.Ledger("kafka").DeadLettered == 1 })
	all := r.kafka.Taken()
	if len(all) != 1 || !all[0].Dead || all[0].Rule != "broken" || all[0].Value != `{"x":"text"}` {
		t.Fatalf("dead letter %+v", all)
	}
	r.Settled()
	r.Stop()
}

func TestRefusedMessagesGoToTheErrorTopic(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.redis.Refuse(func(m sinktest.Message) bool { return m.Value == "3" || m.Value == "6" })
	r.Publish(0, 30)
	r.Settled()
	if l := r.Ledger("redis"); l.DeadLettered != 2 || l.Delivered != 8 {
		t.Fatalf("redis: %+v", l)
	}
	dead := 0
	for _, m := range r.kafka.Taken() {
		if m.Dead {
			dead++
			if m.Rule != "hot" || m.Reason != "poison" || m.Topic != rulestest.ErrorTopic {
				t.Fatalf("dead letter %+v", m)
			}
		}
	}
	if dead != 2 {
		t.Fatalf("%d dead letters", dead)
	}
	r.Stop()
}

// TestOnErrorNoneIsCountedAlone checks that messages of such a rule that a sink refuses are dropped and counted, from
// the window and from the log of a parked topic, and that its evaluation errors leave the record filtered.
func TestOnErrorNoneIsCountedAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Apply(`
rules:
  - {id: quiet, from: ['v1/+/up/telemetry'], when: payload.h < 2, to: [{kafka: {topic: q}}], on_error: none}
  - {id: wrong, from: ['v1/+/up/telemetry'], when: payload.vin < 2, to: [{kafka: {topic: w}}], on_error: none}
`)
	r.kafka.Refuse(func(m sinktest.Message) bool { return m.Topic == "q" })
	r.Publish(0, 30)
	r.Settled()
	if l := r.Ledger("kafka"); l.Dropped[sink.OnErrorNone] != 20 || l.Filtered != 10 || l.DeadLettered != 0 {
		t.Fatalf("ledger %+v", l)
	}
	r.kafka.Refuse(nil)
	r.kafka.Shut("q", true)
	r.Publish(30, 30)
	r.Await(func() bool { p := r.Dispatcher.Parked(); return len(p) == 1 && p[0].Messages == 20 })
	r.kafka.Refuse(func(m sinktest.Message) bool { return m.Topic == "q" })
	r.kafka.Shut("q", false)
	r.Settled()
	if l := r.Ledger("kafka"); l.Dropped[sink.OnErrorNone] != 40 || l.Filtered != 20 || len(r.kafka.Settled()) != 0 {
		t.Fatalf("ledger %+v, delivered %v", l, r.kafka.Settled())
	}
	r.Stop()
}

func TestRulesGovernFromTheirPlaceInTheJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages = 16 })
	r.kafka.Hold(true)
	r.Publish(0, 500)
	r.Apply(`
rules:
  - id: none
    from: ["v1/+/up/other"]
    to: [{kafka: {topic: t}}]
`)
	r.Publish(500, 200)
	r.Apply(testRules)
	r.Publish(700, 50)
	r.Await(func() bool { return r.Dispatcher.Position() == r.Journal.Last() })
	r.Kill() // while almost everything is in the log
	r.kafka.Forget()
	r.kafka.Hold(false)
	r.Open()
	r.Settled()
	seen := map[string]bool{}
	for _, m := range r.kafka.Taken() {
		if m.Rule == "all" {
			seen[m.Value] = true
		}
	}
	for i := range 750 {
		if want := i < 500 || i >= 700; seen[sinktest.Payload(i)] != want {
			t.Fatalf("message %d delivered: %t", i, !want)
		}
	}
	r.Stop()
}

func TestBrokenRulesChangeNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	hash, last := r.Dispatcher.RulesHash(), r.Journal.Last()
	var diags doc.Diagnostics
	err := r.Dispatcher.ApplyRules(context.Background(), sinktest.Source("rules:\n  - id: x\n    from: [a\n"))
	if !errors.As(err, &diags) {
		t.Fatalf("error %v is no diagnosis", err)
	}
	err = r.Dispatcher.ApplyRules(context.Background(), sinktest.Source(`
rules:
  - id: x
    from: ["v1/+/up/telemetry"]
    to: [{central: {lane: p0, topic: t}}]
`))
	if !errors.Is(err, sink.ErrNoSink) {
		t.Fatalf("rules for a sink that is not there: %v", err)
	}
	if r.Dispatcher.RulesHash() != hash || r.Journal.Last() != last {
		t.Fatal("something changed")
	}
	r.Stop()
}

func TestAgeOutPassesOverTheOldest(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[1].WhenFull, o.Sinks[1].AgeOutBytes = sink.AgeOut, 8<<10
		o.Sinks[1].Limits.Messages = 16
	})
	r.redis.Hold(true)
	r.Publish(0, 3000)
	// The sink drops abandoned messages when it checks; the loader skips the others.
	r.Await(func() bool {
		r.redis.LetGo()
		return r.Ledger("redis").Dropped[sink.Retention] > 500
	})
	r.Balanced()
	r.redis.Hold(false)
	r.Settled()
	l := r.Ledger("redis")
	if l.Delivered == 0 || l.Delivered+l.Dropped[sink.Retention] != 1000 {
		t.Fatalf("redis: %+v", l)
	}
	r.Stop()
}

// unsure is a journal that takes records but fails to report them as durable.
type unsure struct {
	sink.Journal
	on *atomic.Bool
}

func (u unsure) WaitDurable(ctx context.Context, seq uint64) error {
	err := u.Journal.WaitDurable(ctx, seq)
	if u.on.Load() {
		return errors.New("no answer")
	}
	return err
}

// Rules whose application was interrupted, by an error or the end of the process, may be in the journal and take
// effect. Applying the previous ones again must not be skipped as unchanged.
func TestInterruptedApplicationKeepsRules(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"error": false, "crash": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var on atomic.Bool
			r := newRig(t, func(o *sink.Options) { o.Journal = unsure{o.Journal, &on} })
			r.Publish(0, 10)
			on.Store(true)
			none := sinktest.Source("rules:\n  - {id: none, from: [v1/+/up/other], to: [{kafka: {topic: t}}]}\n")
			if err := r.Dispatcher.ApplyRules(context.Background(), none); err == nil {
				t.Fatal("applied")
			}
			on.Store(false)
			if restart {
				r.Kill()
				r.Open()
			} else {
				r.Apply(testRules)
			}
			r.Publish(10, 10)
			r.Settled()
			if l := r.Ledger("kafka"); l.Delivered != 20 {
				t.Fatalf("ledger %+v", l)
			}
			r.Stop()
		})
	}
}

// TestASinkThatIsGoneFiltersNothing checks that messages for a sink that was removed from the configuration while the
// rules were in force become dead letters.
func TestASinkThatIsGoneFiltersNothing(t *testing.T) {
	t.Parallel()
	kafka, redis := sinktest.NewMemory(op.SinkKafka), sinktest.NewMemory(op.SinkRedis)
	sinks := []sink.Binding{{Sink: kafka}, {Sink: redis}}
	r := sinktest.New(t, sinktest.Setup{
		Rules: "rules: [{id: r, from: [\"v1/+/up/telemetry\"], to: [{redis: {set_add: s}}]}]",
		Sinks: func() []sink.Binding { return sinks },
	})
	r.Publish(0, 10)
	r.Settled()
	r.Stop()
	sinks = sinks[:1]
	r.Open()
	r.Publish(10, 20)
	r.Settled()
	if l := r.Ledger("kafka"); l.DeadLettered != 20 || l.Filtered != 10 {
		t.Errorf("%+v", l)
	}
	for _, m := range kafka.Taken() {
		if !m.Dead || !strings.Contains(m.Reason, "redis") {
			t.Errorf("%+v", m)
		}
	}
}

package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// gate is a sink that stops the evaluator: Deliver waits while the gate is shut.
type gate struct {
	*sinktest.Memory
	mu *sync.Mutex
}

func (g gate) Deliver(d *sink.Message, t sink.Ticket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Memory.Deliver(d, t)
}

// slowRig is a rig whose evaluator waits while the gate is locked.
type slowRig struct {
	*sinktest.Rig
	t      *testing.T
	gate   sync.Mutex
	ledger []sink.SinkLedger // of a dispatcher before its start
}

func newSlowRig(t *testing.T, change func(*sink.Options)) *slowRig {
	t.Helper()
	r := &slowRig{t: t}
	kafka, redis, central := sinktest.NewMemory(op.SinkKafka), sinktest.NewMemory(op.SinkRedis), sinktest.NewMemory(op.SinkCentral)
	r.Rig = sinktest.New(t, sinktest.Setup{
		Rules:  testRules,
		Change: change,
		Sinks: func() []sink.Binding {
			return []sink.Binding{{Sink: gate{kafka, &r.gate}}, {Sink: redis}, {Sink: central}}
		},
		BeforeStart: func(d *sink.Dispatcher) error { r.ledger = d.Ledger(); return nil },
	})
	return r
}

// TestTheLedgerHasWhatIsNotEvaluated stops the evaluator while messages are acknowledged: every sink's account has
// them, at once and after a crash, with their age.
func TestTheLedgerHasWhatIsNotEvaluated(t *testing.T) {
	t.Parallel()
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill %t", kill), func(t *testing.T) {
			t.Parallel()
			r := newSlowRig(t, nil)
			r.Publish(0, 100)
			r.Settled()
			r.gate.Lock()
			r.Publish(100, 500)
			r.Append(message.Record{Kind: message.KindRelease, Client: "c", PacketID: 1}) // no message
			r.each("while the evaluator is held up", r.Dispatcher.Ledger(), func(l *sink.SinkLedger) bool {
				return l.Received == 600 && l.Pending >= 499 && l.Unevaluated >= 400 && l.Balanced
			})
			r.Await(func() bool {
				return !slices.ContainsFunc(r.Dispatcher.Lag(), func(l sink.SinkLag) bool {
					return l.Age < 5*time.Millisecond || l.Messages < 499 || l.Unevaluated < 400
				})
			})
			if kill {
				r.crash()
				r.each("before the start", r.ledger, func(l *sink.SinkLedger) bool { return l.Received == 600 && l.Balanced })
			} else {
				r.gate.Unlock()
			}
			r.Settled()
			r.each("in the end", r.Dispatcher.Ledger(), func(l *sink.SinkLedger) bool {
				return l.Received == 600 && l.Unevaluated == 0 && l.OldestSeconds == 0
			})
			r.Stop()
		})
	}
}

// each checks every sink's account.
func (r *slowRig) each(when string, ledger []sink.SinkLedger, ok func(*sink.SinkLedger) bool) {
	r.t.Helper()
	for i := range ledger {
		if !ok(&ledger[i]) {
			r.t.Errorf("%s: %+v", when, ledger[i])
		}
	}
}

// crash ends the dispatcher while the gate holds its evaluator, and starts another one.
func (r *slowRig) crash() {
	dispatcher, abandoned := r.Dispatcher, make(chan struct{})
	go func() { defer close(abandoned); dispatcher.Abandon() }()
	r.gate.Unlock()
	<-abandoned
	r.Kill()
	r.Open()
}

// TestALaggingSinkIsReported checks that a sink with records pending for too long is reported, even if it does not
// cause the delay, and no longer once they are settled.
func TestALaggingSinkIsReported(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	r := newSlowRig(t, func(o *sink.Options) { o.LagAlarm, o.Metrics = 20*time.Millisecond, sink.NewMetrics(reg) })
	r.Publish(0, 10)
	r.Settled()
	r.gate.Lock()
	r.Publish(10, 50)
	for _, name := range []string{"kafka", "redis", "central"} {
		r.Await(func() bool { return strings.Contains(r.reason(name), "the rules have not seen") })
		if n := check.Series(t, reg)["ledger_unevaluated{sink="+name+"}"]; n < 40 {
			t.Errorf("%s: %v messages are not evaluated, by the metric", name, n)
		}
	}
	r.gate.Unlock()
	r.Settled()
	for _, name := range []string{"kafka", "redis", "central"} {
		r.Await(func() bool { return r.reason(name) == "" })
	}
	r.Stop()
}

func (r *slowRig) reason(name string) string {
	for _, h := range r.Dispatcher.Health() {
		if h.Name == name && !h.OK {
			return h.Reason
		}
	}
	return ""
}

// TestABacklogHasItsAgeAfterARestart checks that the lag of an unreachable sink after a start is the age of its
// decision log's records.
func TestABacklogHasItsAgeAfterARestart(t *testing.T) {
	t.Parallel()
	var age []time.Duration
	r := newRig(t, func(o *sink.Options) { o.Sinks[1].Limits.Messages = 8 })
	r.redis.Hold(true)
	r.Publish(0, 300)
	r.Await(func() bool { return r.Ledger("kafka").Delivered == 300 })
	r.Await(func() bool { return r.Dispatcher.Lag()[1].Age > 5*time.Millisecond })
	r.Stop()
	r.redis.Forget()
	r.Setup(func(d *sink.Dispatcher) error {
		for _, l := range d.Lag() {
			age = append(age, l.Age)
		}
		return nil
	})
	r.Open()
	if len(age) != 2 || age[0] != 0 || age[1] < 5*time.Millisecond {
		t.Errorf("lag of kafka and redis after a start: %v", age)
	}
	r.redis.Hold(false)
	r.Settled()
	r.Stop()
}

// TestLossesDoNotChangeWhatIsReceived damages unevaluated messages with other records among them.
func TestLossesDoNotChangeWhatIsReceived(t *testing.T) {
	t.Parallel()
	r := newDamagedRig(t)
	r.Open()
	r.Settled()
	r.Publish(350, 10)
	r.Settled()
	for _, name := range []string{"kafka", "redis"} {
		if l := r.Ledger(name); l.Received != 360 || l.Unevaluated != 0 || l.Dropped[sink.Corruption] != 50 {
			t.Errorf("%+v", l)
		}
	}
	r.Stop()
}

// TestUnreadableEndDoesNotDelayStart damages the newest, unevaluated messages: they count as received, and
// as dropped once the evaluator can tell where they end.
func TestUnreadableEndDoesNotDelayStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Publish(0, 100)
	r.Settled()
	r.Stop()
	r.PublishUnseen(100, 100)
	r.Damage(160)
	r.PublishUnseen(200, 100)
	r.Damage(210)
	r.Damage(260)
	r.Open()
	r.Publish(300, 10)
	r.Settled()
	if l := r.Ledger("kafka"); l.Received != l.Delivered+l.Dropped[sink.Corruption] || l.Dropped[sink.Corruption] < 150 || l.Delivered < 160 {
		t.Errorf("%+v", l)
	}
	r.Stop()
}

package mqtt_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/mqtt"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testRules = `
lists: {classes: [telemetry, event/door]}
rules:
  - id: advice
    from: ["#"]
    when: payload.h == 0
    transform: {n: payload.n}
    to: [{mqtt: {class: advice, ttl: 90s}}]
  - id: others
    from: ["#"]
    to: [{mqtt: {topic: "fleet/${class}/${vin}", headers: none}}]
`

// fullJournal is a journal that takes all records except for the rules' messages while it is full.
type fullJournal struct {
	mqtt.Journal
	full *atomic.Bool
}

func (j fullJournal) Append(recs []message.Record, w journal.Waiter) (uint64, error) {
	if j.full.Load() {
		return 0, journal.ErrFull
	}
	return j.Journal.Append(recs, w)
}

func newRig(t *testing.T) (*sinktest.Rig, *atomic.Bool) {
	t.Helper()
	kafka, full := sinktest.NewMemory(op.SinkKafka), &atomic.Bool{}
	return sinktest.New(t, sinktest.Setup{
		Rules: testRules, Sinks: func() []sink.Binding { return []sink.Binding{{Sink: kafka}} },
		Change: func(o *sink.Options) {
			s, err := mqtt.New(mqtt.Options{
				Journal: fullJournal{o.Journal, full}, Log: slog.New(slog.DiscardHandler),
				Pace: remote.Pace{BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond, PingInterval: time.Second},
			})
			check.OK(t, err)
			o.Sinks = append(o.Sinks, sink.Binding{Sink: s})
		},
	}), full
}

// published returns the records that the rules have appended to the journal.
func published(t *testing.T, r *sinktest.Rig) []message.Record {
	t.Helper()
	reader, err := r.Journal.NewReader(1)
	check.OK(t, err)
	defer func() { _ = reader.Close() }()
	var all []message.Record
	for {
		b, ok, err := reader.TryNext(0)
		check.OK(t, err)
		if !ok {
			return all
		}
		for i := range b.Records {
			if b.Records[i].IsByRules() {
				all = append(all, b.Records[i].Clone())
			}
		}
	}
}

// TestMessagesAreJournaledAndNotSeenByRules checks that each message is journaled once, in order, as the reference
// describes, and that the rules do not get it although they take every topic.
func TestMessagesAreJournaledAndNotSeenByRules(t *testing.T) {
	t.Parallel()
	r, full := newRig(t)
	r.Publish(0, 30)
	r.Settled()
	full.Store(true)
	r.Publish(30, 60)
	r.Evaluated("mqtt", 60)
	r.Balanced()
	full.Store(false)
	r.Settled()
	recs := published(t, r)
	if len(recs) != 120 { // one for each, and another for each third
		t.Fatalf("%d messages", len(recs))
	}
	// 90 of vehicles, and the rules' own messages, which are not evaluated.
	if l := r.Ledger("mqtt"); l.Received != 210 || l.Delivered != 90 || l.Filtered != 120 {
		t.Errorf("ledger %+v", l)
	}
	first := recs[0]
	if first.Topic != "v1/"+sinktest.VIN(0)+"/sys/advice" || string(first.Payload) != `{"n":0}` || first.QoS != 1 || !first.Props.HasExpiry ||
		first.Props.Expiry != 90 || first.Props.ContentType != "application/json" || len(first.Props.User) != 3 ||
		first.Props.User[0] != (message.UserProperty{Name: "msg-id", Value: message.ID("gw-1", r.Journal.Epoch(), 2)}) {
		t.Errorf("first message %+v", first)
	}
	next := 0
	for _, rec := range recs {
		if rec.Topic != fmt.Sprintf("fleet/telemetry/%s", sinktest.VIN(next%7)) {
			continue
		}
		if string(rec.Payload) != sinktest.Payload(next) || len(rec.Props.User) != 0 || rec.Props.HasExpiry {
			t.Errorf("message %d: %+v", next, rec)
		}
		next++
	}
	if next != 90 {
		t.Errorf("%d messages to others", next)
	}
	r.Stop()
}

// TestAStopDoesNotWaitForAFullJournal checks that messages not taken stay pending and are sent after the next start.
func TestAStopDoesNotWaitForAFullJournal(t *testing.T) {
	t.Parallel()
	r, full := newRig(t)
	full.Store(true)
	r.Publish(0, 10)
	r.Evaluated("mqtt", 10)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_ = r.Dispatcher.Stop(ctx)
	r.Kill()
	full.Store(false)
	r.Setup(func(*sink.Dispatcher) error {
		r.Journal.Retain("test", 1)
		return nil
	})
	r.Open()
	r.Settled()
	if got := len(published(t, r)); got != 14 {
		t.Errorf("%d messages", got)
	}
	r.Stop()
}

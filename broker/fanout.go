package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/session"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
)

// FanoutOptions configures a Fanout.
type FanoutOptions struct {
	Journal  Journal
	Sessions *session.Manager
	Log      *slog.Logger
	Metrics  *TailMetrics
}

// Fanout is the loop from the journal to the subscribers: every durable PUBLISH goes to the sessions that subscribe to
// it. It never waits for a client. Commands and results take a separate path, so that they never wait for telemetry:
// see Intake.
type Fanout struct {
	tail
	sessions *session.Manager
}

// fanoutName names the fan-out loop among the journal's consumers.
const fanoutName = "mqtt"

// NewFanout opens the loop's cursor at the end of the sessions' state, and makes the journal retain the records after
// it. Records that the journal no longer has count as missing.
func NewFanout(o FanoutOptions) (*Fanout, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	f := &Fanout{tail: newTail(fanoutName, o.Journal, o.Log, o.Metrics), sessions: o.Sessions}
	return f, f.open(o.Sessions.ReplayFrom())
}

func newTail(name string, j Journal, log *slog.Logger, m *TailMetrics) tail {
	return tail{name: name, journal: j, log: log, metrics: m}
}

// Replay reads all durable records, restores the QoS 2 identifiers that clients use, and fans out the records that were
// not. Call it before the first connection and before Run.
func (f *Fanout) Replay(context.Context) error {
	begun, n := time.Now(), 0
	for end := f.journal.Durable(); f.reader.Position() < end; {
		b, ok, err := f.reader.TryNext(0)
		if err != nil {
			return fmt.Errorf("fan-out replay: %w", err)
		}
		if !ok {
			break
		}
		for i := range b.Records {
			f.sessions.Replay(&b.Records[i])
		}
		if err := f.batch(b); err != nil {
			return err
		}
		n += len(b.Records)
	}
	f.log.Info("fan-out replayed the journal", "records", n, "took", time.Since(begun))
	return nil
}

// Run fans out until ctx ends, which is not an error, or the journal fails. Call it once.
func (f *Fanout) Run(ctx context.Context) error {
	return f.follow(ctx, f.step, func(context.Context) {})
}

// step reads durable records and fans them out. While the index has no subscription, it skips batches of plain
// telemetry by their headers and reads only retained messages and topics outside the vehicles' uplink, among them the
// rules' messages to vehicles.
func (f *Fanout) step(context.Context) (bool, error) {
	var (
		b   *journal.Batch
		ok  bool
		err error
	)
	f.sessions.Wanted(func(subscribed bool) {
		f.want = message.FlagRetain | message.FlagOther
		if subscribed {
			f.want = 0
		}
		b, ok, err = f.reader.TryNextWithin(f.want, passedAtOnce)
	})
	if err != nil {
		return false, err
	}
	if ok {
		return true, f.batch(b)
	}
	before := f.done.Load()
	f.reached()
	return f.done.Load() > before, nil
}

// passedAtOnce bounds the batches that are skipped while a SUBSCRIBE waits.
const passedAtOnce = 64

func (f *Fanout) batch(b *journal.Batch) error {
	err := f.each(b, func(rec *message.Record) error {
		if rec.Kind == message.KindPublish && !rec.IsCommand() {
			f.sessions.Fanout(rec)
			f.notice(rec)
		}
		return nil
	})
	if err == nil {
		f.reached()
	}
	return err
}

// notice delivers a rule's message to a vehicle, because the vehicle's subscriptions to its own topics are not in the
// index. A vehicle without a subscription, or with a full queue, does not get it; the session counts the latter.
func (f *Fanout) notice(rec *message.Record) {
	vin, branch, _ := message.SplitTopic(rec.Topic)
	if !rec.IsByRules() || branch != "sys" {
		return
	}
	d := message.Delivery{Topic: rec.Topic, Payload: rec.Payload, Props: rec.Props, Durable: true}
	if at, expires := rec.ExpiresAt(); expires {
		if d.Life, d.Props.HasExpiry = time.Until(at), false; d.Life < time.Millisecond {
			return
		}
	}
	if err := f.sessions.Deliver(vin, &d); err != nil {
		f.log.Debug("message of a rule to a vehicle not delivered", "vin", vin, "topic", rec.Topic, "err", err)
	}
}

// reached reports the loop's position to the sessions, and to the journal which records to retain.
func (f *Fanout) reached() {
	f.sessions.Advance(f.advance())
	f.journal.Retain(fanoutName, f.sessions.ReplayFrom())
}

// Close makes the position durable and closes the cursor. Call it after Run has returned. If ctx ends first, the next
// start begins at the previous position.
func (f *Fanout) Close(ctx context.Context) error {
	err := f.sessions.Checkpoint(ctx, f.done.Load())
	if err != nil {
		err = fmt.Errorf("fan-out: %w", err)
	}
	return errors.Join(err, f.reader.Close())
}

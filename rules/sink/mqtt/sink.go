package mqtt

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// Journal is the part of *journal.Journal that the sink uses. Tests replace it.
type Journal interface {
	Append(recs []message.Record, w journal.Waiter) (uint64, error)
	WaitDurable(ctx context.Context, seq uint64) error
}

// Options configure a Sink.
type Options struct {
	Journal Journal
	remote.Pace
	Log *slog.Logger
}

// maxBatch is the maximum number of messages per append.
const maxBatch = 256

// Sink implements sink.Sink for the gateway's journal.
type Sink struct {
	o      Options
	health *remote.HealthTracker
	wake   chan struct{}

	mu    sync.Mutex
	queue []job

	ctx     context.Context // ends when Close gives up waiting
	cancel  context.CancelFunc
	closing chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

type job struct {
	rec    message.Record
	ticket sink.Ticket
}

// New starts a sink.
func New(o Options) (*Sink, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	s := &Sink{o: o, health: remote.NewHealthTracker(o.Log, "journal, for the rules' messages to MQTT clients", "they are kept and appended again"), wake: make(chan struct{}, 1), closing: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	s.wg.Go(s.run)
	return s, nil
}

// Name implements sink.Sink.
func (s *Sink) Name() string { return string(s.Kind()) }

// Kind implements sink.Sink.
func (s *Sink) Kind() op.SinkKind { return op.SinkMQTT }

// Announce implements sink.Sink: topics need no preparation.
func (s *Sink) Announce([]string) {}

// Parker implements sink.Sink: the journal takes all or nothing.
func (s *Sink) Parker() sink.Parker { return nil }

// Health implements sink.Sink.
func (s *Sink) Health() remote.Health { return s.health.Get() }

// Deliver implements sink.Sink.
func (s *Sink) Deliver(m *sink.Message, t sink.Ticket) {
	j := job{rec: record(m), ticket: t}
	s.mu.Lock()
	s.queue = append(s.queue, j)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// record returns the message's journal record. Its user properties identify the message for MQTT 5 clients.
func record(m *sink.Message) message.Record {
	r := message.Record{Kind: message.KindPublish, QoS: 1, Topic: m.Out.Topic, Payload: bytes.Clone(m.Out.Value)}
	r.ByRules()
	if !m.Out.Bare {
		r.Props.User = append(r.Props.User, message.UserProperty{Name: "msg-id", Value: string(m.AppendMsgID(nil))})
	}
	for _, h := range m.Out.Headers {
		switch {
		case h.Name == "content-type":
			r.Props.ContentType = h.Value
		case !m.Out.Bare:
			r.Props.User = append(r.Props.User, message.UserProperty{Name: h.Name, Value: h.Value})
		}
	}
	if ttl := m.Out.TTL; ttl > 0 {
		r.Props.HasExpiry, r.Props.Expiry = true, uint32(max(1, min(int64(ttl/time.Second), 1<<32-1))) //nolint:gosec // bounded
	}
	return r
}

// run appends until the sink is closed and either nothing or no time is left.
func (s *Sink) run() {
	var batch []job
	tries := 0
	for {
		if batch = s.fill(batch); len(batch) == 0 {
			return
		}
		err := s.append(batch)
		switch {
		case err == nil:
			tries, batch = 0, batch[:0]
		case errors.Is(err, journal.ErrTooLarge) && len(batch) == 1:
			batch[0].ticket.Refused(err)
			batch = batch[:0]
			err = nil
		case errors.Is(err, journal.ErrTooLarge):
			batch = s.oneByOne(batch)
			continue
		}
		s.health.Set(s, err)
		if err == nil {
			continue
		}
		if tries++; !remote.Pause(s.ctx, remote.Backoff(tries, s.o.BackoffMin, s.o.BackoffMax)) {
			return
		}
		batch = drop(batch)
	}
}

// fill returns batch, or if it is empty the waiting messages; none if the sink is closed.
func (s *Sink) fill(batch []job) []job {
	for closing := false; len(batch) == 0; {
		s.mu.Lock()
		n := min(len(s.queue), maxBatch)
		batch = append(batch, s.queue[:n]...)
		rest := copy(s.queue, s.queue[n:])
		clear(s.queue[rest:])
		s.queue = s.queue[:rest]
		s.mu.Unlock()
		if n > 0 || closing {
			break
		}
		select {
		case <-s.wake:
		case <-s.closing:
			closing = true
		}
	}
	return batch
}

// append journals a batch and settles it.
func (s *Sink) append(batch []job) error {
	recs := make([]message.Record, len(batch))
	for i := range batch {
		recs[i] = batch[i].rec
	}
	last, err := s.o.Journal.Append(recs, nil)
	if err == nil {
		err = s.o.Journal.WaitDurable(s.ctx, last)
	}
	if err != nil {
		return err
	}
	for i := range batch {
		batch[i].ticket.Delivered()
	}
	return nil
}

// oneByOne appends messages singly to find those that are too large, and returns the rest.
func (s *Sink) oneByOne(batch []job) []job {
	for len(batch) > 0 {
		err := s.append(batch[:1])
		switch {
		case errors.Is(err, journal.ErrTooLarge):
			batch[0].ticket.Refused(err)
		case err != nil:
			return batch
		}
		batch = batch[1:]
	}
	return nil
}

// drop removes the messages that age_out has skipped.
func drop(batch []job) []job {
	kept := batch[:0]
	for _, j := range batch {
		if j.ticket.Abandoned() {
			j.ticket.Dropped(sink.Retention)
			continue
		}
		kept = append(kept, j)
	}
	return kept
}

// Close implements sink.Sink.
func (s *Sink) Close(ctx context.Context) error {
	s.once.Do(func() { close(s.closing) })
	return remote.Finish(ctx, &s.wg, s.cancel)
}

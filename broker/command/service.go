package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/clock"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
)

// Deliverer is the delivery engine: session.Manager with a wrapper that classifies permanent errors.
type Deliverer interface {
	// Ready reports whether the vehicle is connected and has a subscription for its commands, and its MQTT version (4
	// for 3.1.1, or 5). It must be cheap and must not call the service.
	Ready(vin string) (version byte, ok bool)
	// Deliver sends d at QoS 1, after earlier deliveries to this vehicle. It does not block. On an error d was not sent
	// and no callback follows. An error that wraps ErrUndeliverable is permanent.
	Deliver(vin string, d *message.Delivery) error
}

// ErrUndeliverable means that a command can never be sent to its vehicle, for example because it exceeds the vehicle's
// maximum packet size.
var ErrUndeliverable = errors.New("the command cannot be sent to this vehicle")

// Options configure a Service.
type Options struct {
	// DB is the gateway's state file. The service uses its own buckets and does not close the file.
	DB        *statefile.DB
	Deliverer Deliverer
	// Publish returns nil once Kafka has all events (acks=all), in order per VIN. After an error all of them are
	// published again. It stops when ctx ends.
	Publish func(ctx context.Context, events []Event) error `zero:"there are no events"`
	// Respond returns nil once all outcomes are certain to reach the subscribers of their response topics, in order.
	// After an error all of them are published again. It stops when ctx ends.
	Respond func(ctx context.Context, responses []Response) error `zero:"nobody does"`
	// Watch receives every change of state once it is on disk: the data of Publish, at once and best effort. It must
	// not block.
	Watch func(Change) `zero:"nobody does"`
	// Sampling selects the commands that are traced; their vehicles get the traceparent.
	Sampling *trace.Sampling `zero:"none"`
	Log      *slog.Logger
	Metrics  *Metrics
	// Refused is called with the reason of every refusal counted in rejected_total.
	Refused func(reason string)
	// Audit is called for every request for a command or cancellation, once its outcome is certain. It must be fast.
	Audit func(Audited)
	// KafkaMay reports whether a command of that name may be sent to that vehicle by Kafka, which has no authenticated
	// callers.
	KafkaMay func(vin, name string) bool

	// Envelope wraps the payload for MQTT 3.1.1 vehicles as {id, name, issued_at, expires_at, payload}.
	Envelope bool

	DefaultTTL, MaxTTL time.Duration
	MaxQueued          int // open commands per vehicle
	MaxOpen            int // open commands in total; a sender may have half
	MaxPayload         int // bytes of a payload, and of a stored result
	Inflight           int // unacknowledged commands per vehicle
	// KeepFor and KeepMax bound the final commands kept.
	KeepFor time.Duration
	KeepMax int
	// MaxEvents bounds the events waiting for Kafka. Beyond it new commands are refused, while events of open commands
	// are kept; with DropOldEvents the oldest are dropped and counted instead.
	MaxEvents     int
	DropOldEvents bool
	// Clock measures the time by which commands expire and are forgotten, independent of steps of the wall clock.
	Clock *clock.Clock
	// Cell decides about commands if several gateways serve the cell.
	Cell *Cell `zero:"one gateway"`
	// StartGrace delays expiry after Open, so that results already in the journal are applied first.
	StartGrace time.Duration `zero:"none"`
}

// Change is the argument of Options.Watch.
type Change struct {
	Command Command // without payload and result
	// Parent is the sender's traceparent, "" if none.
	Parent string
	// Value is the Event's value.
	Value []byte
}

// Service is the command service. Its methods are safe for concurrent use.
type Service struct {
	o       Options
	metrics *Metrics
	inbox   *inbox
	turns   *turns // with several gateways
	// unwritten is what Redis has answered and the state file does not have, with several gateways.
	unwritten *unwritten
	notices   chan cell.Notice
	slots     slotIndex
	index     *index // nil with several gateways
	waiters   waiters

	// Owned by the goroutine of loop, and by Open before it starts.
	open    *openSet
	waiting int                 // events in the outbox
	answers int                 // outcomes in the outbox for response topics
	kept    int                 // final commands
	pending map[string]struct{} // vehicles whose queue may have something to send
	retry   map[string]struct{} // vehicles to retry after a pause
	grace   time.Time           // nothing expires before: StartGrace, or a pause after a store failure

	stat     atomic.Pointer[Stat]
	gaps     gapLog
	eventsC  chan struct{} // capacity 1: there is something to publish
	answersC chan struct{} // likewise for response topics
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

// Open loads the open commands and starts the service.
func Open(o Options) (*Service, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	s := &Service{
		o: o, metrics: o.Metrics, inbox: newInbox(), open: newOpenSet(),
		pending: map[string]struct{}{}, retry: map[string]struct{}{},
		notices: make(chan cell.Notice, maxNotices), eventsC: make(chan struct{}, 1), answersC: make(chan struct{}, 1), grace: time.Now().Add(o.StartGrace),
	}
	if o.Cell != nil {
		s.turns, s.unwritten = newTurns(), newUnwritten()
	} else {
		s.index = newIndex()
	}
	s.waiters.byID = map[string]*waiter{}
	if err := o.DB.Update(createTables); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	if err := o.DB.View(s.load); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	s.gauges()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.wg.Go(s.loop)
	if o.Cell != nil {
		s.startTogether(ctx)
	} else {
		s.wg.Go(func() { s.index.build(ctx, o.DB) })
	}
	if o.Publish != nil {
		s.wg.Go(func() { s.deliverAll(ctx, "changes of state for Kafka", s.eventsC, s.publishSome) })
	}
	if o.Respond != nil {
		s.wg.Go(func() { s.deliverAll(ctx, "outcomes on response topics", s.answersC, s.respondSome) })
	}
	return s, nil
}

func (s *Service) load(tx *statefile.Tx) error {
	t := tablesOf(tx)
	err := t.open().ForEach(func(k, _ []byte) error {
		r, err := t.bySeq(number(k))
		if err == nil && r != nil {
			s.open.add(r, false)
			s.pending[r.VIN] = struct{}{}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("loading open commands: %w", err)
	}
	s.waiting, s.answers = t.events().Keys(), t.answers().Keys()
	s.kept = t.done().Keys()
	return nil
}

// Stat counts what the service holds.
type Stat struct {
	Open    int `json:"open"`           // commands that are not final
	Kept    int `json:"kept"`           // final commands kept
	Waiting int `json:"events_waiting"` // changes of state not yet in Kafka
	// Gone counts the unread losses of vehicle.commands, nil if there are none.
	Gone *Gaps `json:"gone,omitempty"`
}

// Stat returns the current counts.
func (s *Service) Stat() Stat {
	st := *s.stat.Load()
	st.Gone = s.gaps.state()
	return st
}

// Close stops the service: submitted changes are committed, unpublished events stay in the outbox. Afterwards callbacks
// of deliveries do nothing. Call it before closing the state file.
func (s *Service) Close(ctx context.Context) error {
	s.stop()
	done := make(chan struct{})
	go func() {
		if s.turns != nil {
			s.turns.close()
		}
		s.inbox.close()
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("closing the command service: %w", ctx.Err())
	}
}

// Get returns a command of a vehicle; an empty vin matches any.
func (s *Service) Get(ctx context.Context, vin, id string) (Command, error) {
	if s.o.Cell != nil {
		return s.getTogether(ctx, vin, id)
	}
	return s.localView(vin, id)
}

// localView returns a command from the state file.
func (s *Service) localView(vin, id string) (Command, error) {
	var cmd Command
	err := s.o.DB.View(func(tx *statefile.Tx) error {
		t := tablesOf(tx)
		r, err := t.byID(id)
		if err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		if r == nil || (vin != "" && r.VIN != vin) {
			return ErrNotFound
		}
		cmd = t.view(r)
		return nil
	})
	return cmd, err
}

// List returns the selected commands, newest first, and the cursor of the next page, empty after the last.
func (s *Service) List(ctx context.Context, f Filter) (page []Command, cursor string, err error) {
	if f.Limit <= 0 {
		f.Limit = defaultPage
	}
	f.Limit = min(f.Limit, MaxPage)
	if f.ID != "" {
		cmd, err := s.Get(ctx, f.VIN, f.ID)
		switch {
		case errors.Is(err, ErrNotFound) || (err == nil && f.State != "" && cmd.State != f.State):
			return nil, "", nil
		case err != nil:
			return nil, "", err
		}
		return []Command{cmd}, "", nil
	}
	if s.o.Cell != nil {
		return s.listTogether(ctx, f)
	}
	return s.listLocal(ctx, &f)
}

// OnReady notifies the service that a vehicle is connected and subscribed to its commands. The delivery engine calls
// it; it does not block.
func (s *Service) OnReady(vin string) {
	s.inbox.ready(vin)
	if s.turns != nil {
		s.readVehicle(vin)
	}
}

// Sync returns once everything submitted before is on disk. The fan-out loop calls it before it saves its position.
func (s *Service) Sync(ctx context.Context) error {
	if s.turns != nil {
		if err := s.turns.awaitArrived(ctx); err != nil {
			return err
		}
	}
	return s.submit(ctx, true, nil)
}

// submit passes a change to the loop and waits until it is on disk. With must, a failing store is retried instead of
// returning the error.
func (s *Service) submit(ctx context.Context, must bool, run func(*batch) error) error {
	return s.submitRequest(ctx, &request{must: must, run: run})
}

// submitRequest is submit for a request that may write held answers.
func (s *Service) submitRequest(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	if err := s.inbox.put(ctx, r); err != nil {
		r.releaseHeld()
		return err
	}
	return wait(ctx, r.done)
}

func wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// The change may still happen: the caller asks again with the same id.
		return ctx.Err()
	}
}

// post passes a change to the loop from a callback: it neither blocks nor fails.
func (s *Service) post(run func(*batch) error) { s.inbox.post(&request{must: true, run: run}) }

// note runs a change of memory in the loop.
func (s *Service) note(change func()) { s.inbox.post(&request{note: change}) }

package presence

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
)

const (
	// gather is how long the first event of a transaction waits for others. It is gatherMany if the previous
	// transaction had manyEvents, so that a storm of connects shares a few transactions.
	gather, gatherMany = 50 * time.Millisecond, 250 * time.Millisecond
	manyEvents         = 64
	// maxBatch bounds the events of a transaction, publishBatch those of one publication.
	maxBatch     = 1024
	publishBatch = 500
	// recordInterval is how long the record of published events may stay out of the state file. After a kill these events are
	// published again.
	recordInterval = time.Second
)

// Options configure an Outbox.
type Options struct {
	// DB is the gateway's state file. The outbox uses the bucket "presence" and does not close the file.
	DB *statefile.DB
	// Epoch must be higher than in all previous runs.
	Epoch int64
	// Shared is set in a cell of several gateways: events come by Add, and the caller ends the sessions that were open
	// when the gateway was killed (see Left).
	Shared bool
	// Grace is how long a vehicle that was connected when the gateway was killed has to return before it is reported as
	// disconnected.
	Grace time.Duration `zero:"none"`
	// Publish returns nil once Kafka has all events (acks=all), in order per VIN, except those that it refused
	// permanently. After an error all of them are published again. It must return when ctx ends.
	Publish func(ctx context.Context, events []Event) (refused int, err error)
	// Mirror writes the last event of each VIN to a second place, best effort.
	Mirror func(ctx context.Context, events []Event) error `zero:"nowhere"`
	// MaxWaiting bounds the events in memory; further events are only on disk. MaxVehicles bounds the VINs on disk.
	MaxWaiting, MaxVehicles int
	// Wall is the wall clock for timestamps.
	Wall    func() time.Time
	Log     *slog.Logger
	Metrics *Metrics
}

// Outbox stores events until they are published.
type Outbox struct {
	o      Options
	mirror *mirror // nil without Mirror
	write  chan struct{}
	ready  chan struct{} // holds one element when something can be published
	stop   context.CancelFunc
	ending chan struct{} // closed by Close
	done   sync.WaitGroup

	mu        sync.Mutex
	seq       uint64
	pending   []Event // reported, not on disk
	queue     []Event // on disk, to be published, in order
	removable []Event // published; may be removed from disk
	spilled   bool    // the disk has events that are not in queue
	late      []Event // written since the present sweep began; missed means that there were too many
	missed    bool
	lost      map[string]struct{} // connected when the gateway was killed, not returned yet
	left      []Event             // if Shared: the last event of each session open when the gateway was killed
	written   Mark                // the last event on disk
	published Mark                // all events up to it are published
	stored    Mark                // published, as stored on disk
	kept      int                 // VINs on disk
}

// Open loads the state that the previous run has left.
func Open(o Options) (*Outbox, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	b := &Outbox{
		o: o, write: make(chan struct{}, 1), ready: make(chan struct{}, 1), ending: make(chan struct{}), lost: map[string]struct{}{},
	}
	if o.Mirror != nil {
		b.mirror = &mirror{o: &b.o, more: make(chan struct{}, 1), events: map[string]Event{}}
	}
	if err := b.load(); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	if o.Metrics.reg != nil {
		return b, o.Metrics.reg.Register(b.readings())
	}
	return b, nil
}

// Start starts writing and publishing.
func (b *Outbox) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	b.done.Go(b.writeAll)
	b.done.Go(func() { b.publishAll(ctx) })
	if b.mirror != nil {
		b.done.Go(func() { b.mirror.run(ctx, b.ending) })
	}
}

// Report adds an event. It does not block.
func (b *Outbox) Report(vin string, kind Kind, at time.Time, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, lost := b.lost[vin]; lost && kind == Connected {
		b.loseLocked(vin) // end the previous session before this one begins
	}
	b.addLocked(Event{VIN: vin, Kind: kind, At: at.UnixMilli(), Reason: reason})
}

// Add adds an event that has its position (As). It does not block.
func (b *Outbox) Add(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addLocked(e)
}

// Left returns the last events of the sessions that were open when the gateway was killed; only the first call returns
// them. The caller must follow each by its end (Add) or by Forget.
func (b *Outbox) Left() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := b.left
	b.left = nil
	return left
}

// Forget removes a session from disk whose end another gateway has published, unless the vehicle has returned. last is
// its last event.
func (b *Outbox) Forget(last *Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.removable = append(b.removable, *last)
}

func (b *Outbox) addLocked(e Event) {
	if len(b.pending) >= b.o.MaxWaiting {
		b.o.Metrics.events.WithLabelValues("dropped").Inc() // the disk accepts no events
		return
	}
	b.seq++
	e.Mark = Mark{b.o.Epoch, b.seq}
	b.pending = append(b.pending, e)
	signal(b.write)
}

// loseLocked ends the session of a vehicle that was connected when the gateway was killed.
func (b *Outbox) loseLocked(vin string) {
	delete(b.lost, vin)
	b.addLocked(Event{VIN: vin, Kind: Disconnected, At: b.o.Wall().UnixMilli(), Reason: GatewayLost})
}

// Expire waits for Options.Grace and then ends the sessions of vehicles that have not returned. Call it when vehicles
// can connect.
func (b *Outbox) Expire(ctx context.Context) {
	for wait := b.o.Grace; ; wait = gather {
		if !remote.Pause(ctx, wait) {
			return
		}
		b.mu.Lock()
		for vin := range b.lost {
			if len(b.pending) >= min(maxBatch, b.o.MaxWaiting) {
				break
			}
			b.loseLocked(vin)
		}
		left := len(b.lost)
		b.mu.Unlock()
		if left == 0 {
			return
		}
	}
}

// writeAll writes reported events until Close, and then the rest.
func (b *Outbox) writeAll() {
	for wait := gather; ; {
		ended := false
		select {
		case <-b.write:
			select {
			case <-time.After(wait):
			case <-b.ending:
			}
		case <-time.After(recordInterval):
		case <-b.ending:
			ended = true
		}
		wait = gather
		for n, more := 0, true; more; {
			if n, more = b.writeSome(); n >= manyEvents {
				wait = gatherMany
			}
		}
		if ended {
			return
		}
	}
}

// writeSome writes a batch. It returns the number of events, and whether there may be more.
func (b *Outbox) writeSome() (n int, more bool) {
	b.mu.Lock()
	batch := b.pending[:min(len(b.pending), maxBatch)]
	settled, published, spilled := b.removable, b.published, b.spilled
	if len(batch) == 0 && len(settled) == 0 && published == b.stored {
		b.mu.Unlock()
		return 0, false
	}
	b.mu.Unlock()
	w, err := b.commit(batch, settled, published)
	if err != nil { // a failing state file ends the gateway; try again until then
		b.o.Log.Error("presence not written, trying again", "err", err)
		return 0, false
	}
	b.mu.Lock()
	b.pending = append(b.pending[:0:0], b.pending[len(batch):]...)
	b.removable = append(b.removable[:0:0], b.removable[len(settled):]...)
	b.stored, b.kept = published, w.kept
	if len(batch) > 0 {
		b.written = batch[len(batch)-1].Mark
	}
	b.enqueueLocked(batch)
	more = len(b.pending) > 0
	b.mu.Unlock()
	if spilled {
		b.o.Metrics.events.WithLabelValues("merged").Add(float64(w.merged))
		b.o.Metrics.events.WithLabelValues("dropped").Add(float64(w.refused))
	}
	if b.mirror != nil {
		b.mirror.add(batch)
	}
	signal(b.ready)
	return len(batch), more
}

// enqueueLocked queues written events for publication.
func (b *Outbox) enqueueLocked(batch []Event) {
	switch {
	case !b.spilled && len(b.queue)+len(batch) <= b.o.MaxWaiting:
		b.queue = append(b.queue, batch...)
	case b.spilled && len(b.late)+len(batch) <= b.o.MaxWaiting && !b.missed:
		b.late = append(b.late, batch...)
	default:
		b.missed = b.spilled
		b.spilled, b.late = true, nil
	}
}

// Close writes reported events and publishes until none are left or ctx ends; the next run publishes the rest. Do not
// call Report afterwards.
func (b *Outbox) Close(ctx context.Context) error {
	close(b.ending)
	if b.stop == nil {
		return nil
	}
	defer context.AfterFunc(ctx, b.stop)()
	b.done.Wait()
	b.writeSome()
	b.stop()
	if n := b.waiting(); n > 0 {
		return fmt.Errorf("%d presence events wait for Kafka: %w", n, context.DeadlineExceeded)
	}
	return nil
}

// waiting returns how many events in memory are not published, plus one if the disk has others.
func (b *Outbox) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.pending) + len(b.queue)
	if b.spilled {
		n++
	}
	return n
}

// publishAll publishes until ctx ends or, after Close, until all is published.
func (b *Outbox) publishAll(ctx context.Context) {
	var walk pass
	for failed := 0; ctx.Err() == nil; {
		b.mu.Lock()
		batch, spilled := b.queue[:min(len(b.queue), publishBatch)], b.spilled
		b.mu.Unlock()
		var err error
		switch {
		case len(batch) > 0:
			if err = b.publish(ctx, batch); err == nil {
				b.remove(batch)
			}
		case spilled:
			err = b.sweep(ctx, &walk)
		case b.idle(ctx):
			return
		}
		if err == nil {
			if failed > 0 {
				b.o.Log.Info("presence published again")
			}
			failed = 0
			continue
		}
		if failed++; failed == 1 && ctx.Err() == nil {
			b.o.Log.Warn("presence not published, trying again", "err", err)
		}
		remote.Pause(ctx, remote.Backoff(failed, 100*time.Millisecond, 5*time.Second))
	}
}

// idle waits for something to publish. It returns true when nothing more will come.
func (b *Outbox) idle(ctx context.Context) bool {
	select {
	case <-b.ready:
		return false
	case <-ctx.Done():
		return true
	case <-b.ending:
	}
	if b.waiting() == 0 {
		return true
	}
	select {
	case <-b.ready:
	case <-ctx.Done():
	case <-time.After(gather):
	}
	return false
}

func (b *Outbox) publish(ctx context.Context, events []Event) error {
	refused, err := b.o.Publish(ctx, events)
	if err == nil {
		b.o.Metrics.events.WithLabelValues("published").Add(float64(len(events) - refused))
		b.o.Metrics.events.WithLabelValues("refused").Add(float64(refused))
	}
	return err
}

// remove removes a published batch from the queue.
func (b *Outbox) remove(batch []Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = batch[len(batch)-1].Mark
	for i := range batch {
		if batch[i].Kind == Disconnected {
			b.removable = append(b.removable, batch[i])
		}
	}
	b.queue = append(b.queue[:0:0], b.queue[len(batch):]...)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

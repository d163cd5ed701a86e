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
	// gather is how long the first event of a transaction waits for others, gatherMany how long when the transaction before
	// had manyEvents: a storm of connects shares a few.
	gather, gatherMany = 50 * time.Millisecond, 250 * time.Millisecond
	manyEvents         = 64
	// maxBatch bounds the events of a transaction, publishBatch those that are published at a time.
	maxBatch     = 1024
	publishBatch = 500
	// tellDisk is how long what was published may stay out of the state file; that much is told again after a kill.
	tellDisk = time.Second
)

// Options configure an Outbox.
type Options struct {
	// DB is the gateway's state file; the outbox uses the bucket "presence" and leaves the file open.
	DB *statefile.DB
	// Epoch is above that of every run before.
	Epoch int64
	// Shared: what is told comes by Add, and who was connected when the gateway was killed is told by somebody else.
	Shared bool
	// Grace is how long a vehicle that was connected when the gateway was killed has to return before it is told of.
	Grace time.Duration `zero:"none"`
	// Publish returns no error once Kafka has all events (acks=all), in their order per VIN, but for those that it refused for
	// good. After an error all of them come again. It gives up when ctx ends.
	Publish func(ctx context.Context, events []Event) (refused int, err error)
	// Mirror writes the last event of each VIN somewhere else, as far as that works.
	Mirror func(ctx context.Context, events []Event) error `zero:"nowhere"`
	// MaxWaiting bounds the events in memory; what is beyond it is on the disk alone. MaxVehicles bounds the VINs there.
	MaxWaiting, MaxVehicles int
	// Wall is the wall clock, of stamps.
	Wall    func() time.Time
	Log     *slog.Logger
	Metrics *Metrics
}

// Outbox keeps the events until they are published.
type Outbox struct {
	o      Options
	mirror *mirror // nil without Mirror
	write  chan struct{}
	ready  chan struct{} // something can be published
	stop   context.CancelFunc
	ending chan struct{} // closed by Close
	done   sync.WaitGroup

	mu      sync.Mutex
	seq     uint64
	pending []Event // reported, and not on the disk
	queue   []Event // on the disk, to be published, in order
	settled []Event // published, and the disk may forget them
	spilled bool    // the disk has events that are not in queue
	late    []Event // written since the present sweep began; missed: there were too many
	missed  bool
	lost    map[string]struct{} // were connected when the gateway was killed, and have not returned
	left    []Event             // the last of each session that was open then, if Shared
	written Mark                // the last one on the disk
	told    Mark                // all up to it are published
	stored  Mark                // told, as the disk has it
	kept    int                 // VINs on the disk
}

// Open reads what the run before has left.
func Open(o Options) (*Outbox, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	b := &Outbox{
		o: o, write: make(chan struct{}, 1), ready: make(chan struct{}, 1), ending: make(chan struct{}), lost: map[string]struct{}{},
	}
	if o.Mirror != nil {
		b.mirror = newMirror(&b.o)
	}
	if err := b.load(); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	if o.Metrics.reg != nil {
		return b, o.Metrics.reg.Register(b.readings())
	}
	return b, nil
}

// Start begins to write and to publish.
func (b *Outbox) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	b.done.Go(b.writeAll)
	b.done.Go(func() { b.publishAll(ctx) })
	if b.mirror != nil {
		b.done.Go(func() { b.mirror.run(ctx, b.ending) })
	}
}

// Report takes an event. It does not block.
func (b *Outbox) Report(vin string, kind Kind, at time.Time, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, lost := b.lost[vin]; lost && kind == Connected {
		b.loseLocked(vin) // its session before ends before this one begins
	}
	b.addLocked(Event{VIN: vin, Kind: kind, At: at.UnixMilli(), Reason: reason})
}

// Add takes an event that has its place. It does not block.
func (b *Outbox) Add(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addLocked(e)
}

// Left are the last events of the sessions that were open when the gateway ended without a word; the first call has them. Each is to be
// followed by its end (Add), or by Forget.
func (b *Outbox) Left() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := b.left
	b.left = nil
	return left
}

// Forget takes a session off the disk whose end somebody else has told, unless the vehicle has come back. last is its last event.
func (b *Outbox) Forget(last *Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = append(b.settled, *last)
}

func (b *Outbox) addLocked(e Event) {
	if len(b.pending) >= b.o.MaxWaiting {
		b.o.Metrics.events.WithLabelValues("dropped").Inc() // the disk does not take any
		return
	}
	b.seq++
	e.Mark = Mark{b.o.Epoch, b.seq}
	b.pending = append(b.pending, e)
	signal(b.write)
}

// loseLocked ends the session that a vehicle had when the gateway was killed.
func (b *Outbox) loseLocked(vin string) {
	delete(b.lost, vin)
	b.addLocked(Event{VIN: vin, Kind: Disconnected, At: b.o.Wall().UnixMilli(), Reason: GatewayLost})
}

// Expire waits for Options.Grace, and then tells of those that have not returned. Call it when vehicles can connect.
func (b *Outbox) Expire(ctx context.Context) {
	for wait := b.o.Grace; ; wait = gather {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
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

// writeAll writes what is reported until Close, and then what is left.
func (b *Outbox) writeAll() {
	for wait := gather; ; {
		ended := false
		select {
		case <-b.write:
			select {
			case <-time.After(wait):
			case <-b.ending:
			}
		case <-time.After(tellDisk):
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

// writeSome writes a batch. It returns how many events that were, and whether there may be more.
func (b *Outbox) writeSome() (n int, more bool) {
	b.mu.Lock()
	batch := b.pending[:min(len(b.pending), maxBatch)]
	settled, told, spilled := b.settled, b.told, b.spilled
	if len(batch) == 0 && len(settled) == 0 && told == b.stored {
		b.mu.Unlock()
		return 0, false
	}
	b.mu.Unlock()
	w, err := b.commit(batch, settled, told)
	if err != nil { // a state file that fails ends the gateway; until then it is tried again
		b.o.Log.Error("presence not written, trying again", "err", err)
		return 0, false
	}
	b.mu.Lock()
	b.pending = append(b.pending[:0:0], b.pending[len(batch):]...)
	b.settled = append(b.settled[:0:0], b.settled[len(settled):]...)
	b.stored, b.kept = told, w.kept
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

// enqueueLocked has what is on the disk published.
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

// Close writes what is reported, and publishes until all is, or ctx ends; the rest is told by the next run. Report must
// not be called any more.
func (b *Outbox) Close(ctx context.Context) error {
	close(b.ending)
	if b.stop == nil {
		return nil
	}
	defer context.AfterFunc(ctx, b.stop)()
	b.done.Wait()
	b.writeSome()
	b.stop()
	if n := b.Waiting(); n > 0 {
		return fmt.Errorf("%d presence events wait for Kafka: %w", n, context.DeadlineExceeded)
	}
	return nil
}

// Waiting is how many events are in memory and not published; one more when the disk has others.
func (b *Outbox) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.pending) + len(b.queue)
	if b.spilled {
		n++
	}
	return n
}

// publishAll publishes until ctx ends, or all is published after Close.
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
				b.published(batch)
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
		select {
		case <-time.After(remote.Backoff(failed, 100*time.Millisecond, 5*time.Second)):
		case <-ctx.Done():
		}
	}
}

// idle waits for something to publish; true when nothing will come any more.
func (b *Outbox) idle(ctx context.Context) bool {
	select {
	case <-b.ready:
		return false
	case <-ctx.Done():
		return true
	case <-b.ending:
	}
	if b.Waiting() == 0 {
		return true
	}
	select {
	case <-b.ready:
	case <-ctx.Done():
	case <-time.After(gather):
	}
	return false
}

// publish publishes events, and counts what became of them.
func (b *Outbox) publish(ctx context.Context, events []Event) error {
	refused, err := b.o.Publish(ctx, events)
	if err == nil {
		b.o.Metrics.events.WithLabelValues("published").Add(float64(len(events) - refused))
		b.o.Metrics.events.WithLabelValues("refused").Add(float64(refused))
	}
	return err
}

// published takes a batch off the queue.
func (b *Outbox) published(batch []Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = batch[len(batch)-1].Mark
	for i := range batch {
		if batch[i].Kind == Disconnected {
			b.settled = append(b.settled, batch[i])
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

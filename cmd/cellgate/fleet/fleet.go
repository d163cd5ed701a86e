package fleet

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"cellgate/broker/shared/remote"
)

// fleet is one run of the simulator.
type fleet struct {
	o        Options
	stats    *stats
	cycle    *Cycle
	route    *Route
	vehicles []*vehicle
	dialer   net.Dialer
	connects *rate.Limiter
	turns    chan struct{} // bounds concurrent handshakes
	buffers  sync.Pool     // *[]byte, of frames to write
	batches  sync.Pool     // *received
	begin    time.Time
	started  atomic.Bool // publishing has begun
	ended    atomic.Bool // publishing has ended
	seqWidth int         // of sequence numbers; 0 when every message is rendered separately

	work  sync.WaitGroup // vehicles and their delayed work
	mu    sync.Mutex
	delay map[*time.Timer]struct{}
}

// maxHandshakes is how many vehicles connect at the same time.
const maxHandshakes = 64

// Run drives a fleet until the options' duration or ctx ends, and returns a report. An error means that it could not
// start or that the ledger failed. Refusals by the gateway are in the report.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	f := newFleet(o)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Vehicles outlive ctx by the drain, so that open acknowledgements can still come.
	lives, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	for _, v := range f.vehicles {
		f.work.Go(func() { v.live(lives) })
	}
	f.work.Go(func() { f.keepalive(lives) })
	f.run(ctx)
	f.drain()
	report := f.stats.report(len(f.vehicles), f.open())
	f.cancelDelayed()
	for _, v := range f.vehicles {
		v.hangUp()
	}
	hangUp()
	f.work.Wait()
	// An answer leaves its window before it is counted: only now are all counted that the drain waited for.
	report.Acknowledged, report.Refused, report.Unacknowledged = f.stats.acked.Load(), f.stats.rejected.Load(), f.open()
	if o.Ledger != nil {
		if err := o.Ledger.Err(); err != nil {
			return report, err
		}
	}
	return report, nil
}

func newFleet(o Options) *fleet {
	f := &fleet{
		o: o, stats: newStats(), cycle: nedc(), route: NewRoute(), begin: time.Now(),
		dialer:   net.Dialer{KeepAlive: -1}, // MQTT has its own
		connects: rate.NewLimiter(rate.Limit(o.ConnectRate), max(1, int(o.ConnectRate/20))),
		turns:    make(chan struct{}, maxHandshakes),
		delay:    make(map[*time.Timer]struct{}),
	}
	if o.Saturate || o.Rate*renderEvery.Seconds() > 1 {
		f.seqWidth = seqWidth
	}
	f.buffers.New = func() any { return new([]byte) }
	f.batches.New = func() any { return new(received) }
	f.vehicles = make([]*vehicle, len(o.VINs))
	for i, vin := range o.VINs {
		f.vehicles[i] = newVehicle(f, i, vin)
	}
	return f
}

// now returns the time since the fleet's start, by the monotonic clock.
func (f *fleet) now() time.Duration { return time.Since(f.begin) }

// admit waits for a vehicle's turn to connect; release ends it.
func (f *fleet) admit(ctx context.Context) error {
	if err := f.connects.Wait(ctx); err != nil {
		return err
	}
	select {
	case f.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fleet) release() { <-f.turns }

// later calls fn after d, unless the run ends before.
func (f *fleet) later(d time.Duration, fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.delay == nil {
		return
	}
	f.work.Add(1)
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		f.mu.Lock()
		_, wanted := f.delay[t]
		delete(f.delay, t)
		f.mu.Unlock()
		if wanted {
			fn()
			f.work.Done()
		}
	})
	f.delay[t] = struct{}{}
}

func (f *fleet) cancelDelayed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.delay {
		t.Stop()
		f.work.Done()
	}
	f.delay = nil
}

// run publishes until the end.
func (f *fleet) run(ctx context.Context) {
	if f.o.WaitConnected {
		for f.stats.connected.Load() < int64(len(f.vehicles)) {
			if !remote.Pause(ctx, 10*time.Millisecond) {
				return
			}
		}
		f.stats.begin = time.Now()
	}
	if f.o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.o.Duration)
		defer cancel()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if f.o.Progress != nil {
		wg.Go(func() { f.progress(ctx) })
	}
	f.started.Store(true)
	switch {
	case f.o.Saturate:
		f.saturate(ctx, &wg)
	case f.o.Rate > 0:
		for _, part := range f.shards() {
			wg.Go(func() { f.schedule(ctx, part) })
		}
	}
	<-ctx.Done()
}

// saturate starts every vehicle. At QoS 1 acknowledgements then keep it publishing.
func (f *fleet) saturate(ctx context.Context, wg *sync.WaitGroup) {
	for _, v := range f.vehicles {
		if f.o.QoS == 0 {
			wg.Go(func() { v.pour(ctx) })
			continue
		}
		v.in.Lock()
		conn := v.conn
		v.in.Unlock()
		if conn != nil {
			v.refill(conn)
		}
	}
}

// pour publishes at QoS 0 as fast as the connection accepts.
func (v *vehicle) pour(ctx context.Context) {
	for ctx.Err() == nil {
		v.in.Lock()
		conn := v.conn
		v.in.Unlock()
		if conn == nil {
			if !remote.Pause(ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		v.refill(conn)
	}
}

// shards divides the vehicles among the publishing goroutines.
func (f *fleet) shards() [][]*vehicle {
	n := min(2*runtime.GOMAXPROCS(0), len(f.vehicles))
	parts := make([][]*vehicle, n)
	for i, v := range f.vehicles {
		parts[i%n] = append(parts[i%n], v)
	}
	return parts
}

// tick is how early a message may be sent: messages due within it are sent together, without a sleep for each.
const tick = time.Millisecond

// schedule publishes for its vehicles in turn, spread evenly over the interval.
func (f *fleet) schedule(ctx context.Context, part []*vehicle) {
	interval := time.Duration(float64(time.Second) / f.o.Rate)
	start := f.now()
	for i, v := range part {
		v.due = start + interval*time.Duration(i)/time.Duration(len(part))
	}
	for i := 0; ; i++ {
		v := part[i%len(part)]
		now := f.now()
		if wait := v.due - now; wait > tick {
			if !remote.Pause(ctx, wait) {
				return
			}
			now = f.now()
		} else if ctx.Err() != nil {
			return
		}
		v.publish(now)
		for v.due += interval; v.due < now-interval; v.due += interval {
			f.stats.skipped.Add(1)
		}
	}
}

// keepalive sends pings for all vehicles.
func (f *fleet) keepalive(ctx context.Context) {
	for remote.Pause(ctx, max(f.o.Keepalive/8, 10*time.Millisecond)) {
		for _, v := range f.vehicles {
			v.ping(f.now())
		}
	}
}

func (f *fleet) progress(ctx context.Context) {
	format := "%s\n"
	if f.o.Rewrite {
		format = "\r\x1b[K%s"
		defer fmt.Fprintln(f.o.Progress) //nolint:errcheck // a terminal
	}
	before, last := f.stats.acked.Load(), time.Now()
	for remote.Pause(ctx, f.o.Every) {
		now := time.Now()
		line := f.stats.summary(len(f.vehicles), before, now.Sub(last))
		before, last = f.stats.acked.Load(), now
		if _, err := fmt.Fprintf(f.o.Progress, format, line); err != nil {
			return
		}
	}
}

// drain stops publishing and waits for open acknowledgements.
func (f *fleet) drain() {
	f.ended.Store(true)
	end := time.Now().Add(f.o.Drain)
	for f.open() > 0 && f.stats.connected.Load() > 0 && time.Now().Before(end) {
		time.Sleep(5 * time.Millisecond)
	}
}

func (f *fleet) open() uint64 {
	n := 0
	for _, v := range f.vehicles {
		n += v.open()
	}
	return uint64(n) //nolint:gosec // not negative
}

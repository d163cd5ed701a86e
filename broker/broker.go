package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/session"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
)

// Broker serves MQTT clients: see the package comment.
type Broker struct {
	journal          Journal
	sessions         *session.Manager
	auth             Authenticator
	ackMode          func(rec *message.Record) AckMode
	settlement       Settlement
	admitHook        func(id *auth.Identity, clientID string) (byte, string)
	shed             func() bool
	decide           Command
	refusals         *refusals
	trace            *trace.Traces
	commandSubscribe bool
	log              *slog.Logger
	metrics          *Metrics
	now              func() time.Time
	begun            time.Time // origin of elapsed

	limits    atomic.Pointer[Limits]
	listeners []*listener
	admission *admission
	gate      *gate
	pools     *pools
	wheel     wheel
	counters  *counters
	resends   resends

	// ctx ends at the end of Stop. Calls that wait for other parts use it.
	ctx        context.Context //nolint:containedctx // the broker's lifetime, not a call's
	cancel     context.CancelFunc
	stopping   atomic.Bool
	handshakes sync.WaitGroup // goroutines of serve
	accepting  sync.WaitGroup // accept loops
	ticking    sync.WaitGroup
	stopTick   chan struct{}
	stopWatch  func()

	droppedQoS0 atomic.Uint64
	fanoutLate  atomic.Int64 // wheel clock of the last SUBSCRIBE that gave up waiting for the fan-out, ms; 0 none

	roleChanges atomic.Uint64
	permitting  sync.Mutex // serialises updates of a connection's permissions from its latest identity
}

// errOptions is wrapped by every error of New.
var errOptions = errors.New("broker options")

// New checks the options and reads the listeners' certificates. Start begins to serve.
func New(o Options) (*Broker, error) {
	if err := complete.Check(o); err != nil {
		return nil, fmt.Errorf("%w: %w", errOptions, err)
	}
	if len(o.Listeners) == 0 {
		return nil, fmt.Errorf("%w: no listener", errOptions)
	}
	b := &Broker{
		journal: o.Journal, sessions: o.Sessions, auth: o.Auth, ackMode: o.Ack, settlement: o.Settlement,
		refusals: newRefusals(), admitHook: o.Admit, shed: o.Shed, decide: o.Command, trace: o.Trace, commandSubscribe: o.CommandSubscribe,
		log: o.Log, metrics: o.Metrics, now: o.Now, begun: time.Now().Add(-time.Second),
		gate: &gate{places: make(chan struct{}, runtime.GOMAXPROCS(0))}, pools: newPools(),
		stopTick: make(chan struct{}),
	}
	b.admission = newAdmission(b.metrics.handshakes)
	b.limits.Store(&o.Limits)
	b.counters = newCounters(b.metrics, o.Classes)
	for _, l := range o.Listeners {
		made, err := b.newListener(l)
		if err != nil {
			return nil, fmt.Errorf("%w: listener %s: %w", errOptions, l.Name, err)
		}
		b.listeners = append(b.listeners, made)
	}
	return b, nil
}

// Start binds every listener and serves until Stop. If an address cannot be bound, the error names the listener and
// nothing is served. ctx bounds only the binding.
func (b *Broker) Start(ctx context.Context) error {
	if err := b.resends.recall(b.journal, b.limits.Load().Window); err != nil {
		return fmt.Errorf("read the journal's end: %w", err)
	}
	for _, l := range b.listeners {
		if err := l.bind(ctx); err != nil {
			b.closeListeners()
			return err
		}
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.wheel.clock.Store(b.elapsed().Milliseconds())
	b.wheel.wall.Store(b.now().UnixMilli())
	b.ticking.Go(func() { b.wheel.run(b.elapsed, b.now, b.stopTick) })
	b.stopWatch = b.auth.WatchEnded(b.endInvalid)
	for _, l := range b.listeners {
		b.accepting.Go(func() { b.accept(l) })
		b.log.Info("listening", "listener", l.name, "address", l.addr().String(), "tls", l.tls != nil, "protocol", l.protocol)
	}
	return nil
}

// Addrs returns the bound addresses by listener name.
func (b *Broker) Addrs() map[string]net.Addr {
	addrs := make(map[string]net.Addr, len(b.listeners))
	for _, l := range b.listeners {
		addrs[l.name] = l.addr()
	}
	return addrs
}

// Connections returns the number of connected clients.
func (b *Broker) Connections() int { return b.wheel.len() }

// Reload applies the limits and reads the listeners' certificates again: both, or on an error neither. files holds the
// new TLS options by listener name. A listener without an entry keeps its options; one without TLS stays without. The
// limits announced in CONNACK (maximum packet, receive maximum, topic aliases) hold until the connection ends. Calls
// must not overlap.
func (b *Broker) Reload(limits Limits, files map[string]TLS) error {
	if err := complete.Check(limits); err != nil {
		return err
	}
	read := make([]*tlsFiles, len(b.listeners))
	for i, l := range b.listeners {
		if l.tls == nil {
			continue
		}
		from, changed := files[l.name]
		if !changed {
			from = l.tls.current.Load().from
		}
		var err error
		if read[i], err = readTLS(from); err != nil {
			return fmt.Errorf("listener %s: %w", l.name, err)
		}
	}
	for i, l := range b.listeners {
		if l.tls != nil {
			l.tls.current.Store(read[i])
		}
	}
	b.limits.Store(&limits)
	return nil
}

// Stop stops accepting, sends every connection the acknowledgements it is due, then DISCONNECT with reason and
// serverReference on MQTT 5, and closes. Reason 0 means 0x8B, server shutting down. When ctx ends first, Stop
// closes the remaining connections at once and returns ctx's error.
func (b *Broker) Stop(ctx context.Context, reason byte, serverReference string) error {
	if b.stopping.Swap(true) {
		return nil
	}
	if reason == frame.ReasonSuccess {
		reason = frame.ReasonShuttingDown
	}
	bye := b.farewell(reason)
	bye.serverRef, bye.label = serverReference, "shutdown"
	b.closeListeners()
	if b.cancel == nil { // never started
		return nil
	}
	b.accepting.Wait()
	for _, nc := range b.admission.all() {
		_ = nc.Close()
	}
	for _, c := range b.wheel.all(nil) {
		c.end(bye)
	}
	err := b.awaitEmpty(ctx, bye)
	b.cancel()
	b.stopWatch()
	b.handshakes.Wait()
	err = errors.Join(err, b.awaitEmpty(ctx, bye)) // connections that finished CONNECT meanwhile
	close(b.stopTick)
	b.ticking.Wait()
	return err
}

func (b *Broker) awaitEmpty(ctx context.Context, bye refusal) error {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		left := b.wheel.all(nil)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-t.C:
			for _, c := range left { // connections may have finished CONNECT meanwhile
				c.end(bye)
			}
		case <-ctx.Done():
			for _, c := range left {
				c.close(false)
			}
			return fmt.Errorf("%d connections closed without a DISCONNECT: %w", len(left), ctx.Err())
		}
	}
}

func (b *Broker) closeListeners() {
	for _, l := range b.listeners {
		l.close()
	}
}

// elapsed returns the monotonic time since the start, never 0: see wheel.clock.
func (b *Broker) elapsed() time.Duration { return time.Since(b.begun) }

// enter registers the connection with the wheel, where Stop and revocations find it, unless it is already closed.
func (b *Broker) enter(c *conn) {
	b.wheel.add(c, c.nextCheck(0))
	if c.shared.closed.Load() {
		b.wheel.remove(c)
	}
}

// forget undoes enter after the socket is closed.
func (b *Broker) forget(c *conn) {
	b.wheel.remove(c)
	b.admission.release(c.t.accepted)
}

// RefreshPermissions gives every connection the current permissions of its identity, after roles have changed.
func (b *Broker) RefreshPermissions() {
	b.roleChanges.Add(1) // before reading the list of connections: see attach
	for _, c := range b.wheel.all(nil) {
		c.permit()
	}
}

// endInvalid ends the connections whose token is revoked or whose key is no longer in force.
func (b *Broker) endInvalid(ended func(auth.Identity) error) {
	for _, c := range b.wheel.all(nil) {
		id := c.shared.identity.Load()
		if id == nil {
			continue
		}
		if err := ended(*id); err != nil {
			c.endInvalid(err)
		}
	}
}

func (c *conn) endInvalid(err error) { c.end(c.b.ended(err)) }

func (b *Broker) panicked(part, who string, p any) {
	b.metrics.panics.Inc()
	b.log.Error("recovered from a panic", "part", part, "who", who, "panic", p, "stack", string(debug.Stack()))
}

// DroppedQoS0 returns the number of QoS 0 messages dropped because the journal's room is short or used up.
func (b *Broker) DroppedQoS0() uint64 { return b.droppedQoS0.Load() }

func (b *Broker) dropQoS0() {
	b.droppedQoS0.Add(1)
	b.reject("journal_full_qos0")
}

func (b *Broker) reject(reason string) { b.metrics.Rejected.WithLabelValues(reason).Inc() }

package webhook

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/remote"
	"cellgate/rules/sink"
)

const (
	// parkAfter is how long an endpoint fails before it is parked; parkWaiting is the number of waiting messages from
	// which it is parked at once, so that no endpoint fills the window.
	parkAfter   = 2 * time.Second
	parkWaiting = 1024
)

// endpoint sends the messages for one URL.
type endpoint struct {
	s       *Sink
	o       *Endpoint
	client  *http.Client
	seconds prometheus.Observer
	waits   prometheus.Gauge

	mu      sync.Mutex // guards the rest; Ticket.Park and empty are called under it
	workers []*worker
	arrived uint64
	waiting int
	busy    int       // workers with a request in flight
	parked  bool      // messages go to Ticket.Park
	giving  bool      // waiting messages go to it as soon as no worker is busy
	since   time.Time // of the first failure since the last success; zero: none
	why     error
	tries   context.Context // of the requests in flight; ended to cancel them
	end     context.CancelFunc
}

// worker sends the messages of its share of the vehicles, one at a time.
type worker struct {
	e     *endpoint
	wake  chan struct{}
	queue []*job
	fails int
	next  time.Time // not before then
}

func newEndpoint(s *Sink, o *Endpoint) (*endpoint, error) {
	client, err := newClient(o)
	if err != nil {
		return nil, err
	}
	e := &endpoint{
		s: s, o: o, client: client, seconds: s.o.Metrics.seconds.WithLabelValues(o.Name), waits: s.o.Metrics.waiting.WithLabelValues(o.Name),
	}
	for range o.Requests {
		e.workers = append(e.workers, &worker{e: e, wake: make(chan struct{}, 1)})
	}
	return e, nil
}

func (e *endpoint) start() {
	e.tries, e.end = context.WithCancel(e.s.ctx)
	for _, l := range e.workers {
		e.s.wg.Go(l.run)
	}
}

// add queues a message, or returns it to its ticket while the endpoint is parked.
func (e *endpoint) add(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.parked && !e.giving && j.ticket.Park(e.o.Name, e.reason()) {
		return
	}
	e.arrived++
	j.number = e.arrived
	l := e.workers[maphash.String(e.s.seed, j.vin)%uint64(len(e.workers))]
	l.queue = append(l.queue, j)
	if e.count(1); e.waiting >= parkWaiting {
		e.giveUpLocked()
	}
	l.signal()
}

// count changes the number of waiting messages.
func (e *endpoint) count(n int) {
	e.waiting += n
	e.waits.Set(float64(e.waiting))
}

func (e *endpoint) reason() error {
	if e.why == nil {
		return errors.New("it accepts fewer messages than arrive")
	}
	return e.why
}

// park makes the endpoint return later messages.
func (e *endpoint) park() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.parked = true
}

// giveUpLocked parks the endpoint. It cancels requests of a failing one; they may have been processed, and are sent
// again.
func (e *endpoint) giveUpLocked() {
	if e.parked {
		return
	}
	e.parked, e.giving = true, true
	if e.why != nil {
		e.end()
	}
	e.giveLocked()
}

// giveLocked returns the waiting messages in the order of arrival. Those that were parked before stay.
func (e *endpoint) giveLocked() {
	if !e.giving || e.busy > 0 {
		return
	}
	var all []*job
	for _, l := range e.workers {
		all = append(all, l.queue...)
	}
	slices.SortFunc(all, func(a, b *job) int { return cmp.Compare(a.number, b.number) })
	gone := map[*job]bool{}
	for _, j := range all {
		if j.ticket.Park(e.o.Name, e.reason()) {
			gone[j] = true
		}
	}
	for _, l := range e.workers {
		l.queue = slices.DeleteFunc(l.queue, func(j *job) bool { return gone[j] })
		l.signal()
	}
	e.count(-len(gone))
	e.giving = false
	e.end()
	e.tries, e.end = context.WithCancel(e.s.ctx)
}

// open lets messages through again unless the present ones fail.
func (e *endpoint) open(empty func() bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.giving || e.why != nil && e.waiting > 0 || !empty() {
		return
	}
	if e.parked = false; e.why != nil {
		e.since, e.why = time.Time{}, nil
		e.s.note(e, nil) // no failing message is left
	}
}

func (l *worker) run() {
	for {
		j, ctx := l.take()
		if j == nil {
			return
		}
		l.e.settle(l, j, l.e.try(ctx, j))
	}
}

// take waits for the worker's next message, which stays in the queue. It returns nil if the sink is closed and either
// nothing or no time is left.
func (l *worker) take() (*job, context.Context) {
	e, closing := l.e, l.e.s.closing
	for done := false; ; {
		e.mu.Lock()
		wait := time.Until(l.next)
		if len(l.queue) > 0 && wait <= 0 && !e.giving && e.s.ctx.Err() == nil {
			e.busy++
			j, ctx := l.queue[0], e.tries
			e.mu.Unlock()
			return j, ctx
		}
		empty := len(l.queue) == 0
		e.mu.Unlock()
		if done && empty || e.s.ctx.Err() != nil {
			return nil, nil
		}
		var timer <-chan time.Time
		if !empty && wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-l.wake:
		case <-timer:
		case <-closing:
			done, closing = true, nil
		case <-e.s.ctx.Done():
		}
	}
}

func (l *worker) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// settle handles the outcome of a try.
func (e *endpoint) settle(l *worker, j *job, err error) {
	var refused *refusalError
	final := err == nil || errors.As(err, &refused)
	e.mu.Lock()
	brokenOff := err != nil && e.tries.Err() != nil
	e.busy--
	dropped := !final && j.ticket.Abandoned()
	switch {
	case final || dropped:
		l.queue, l.fails, l.next = l.queue[1:], 0, time.Time{}
		e.count(-1)
	case !brokenOff:
		l.fails++
		l.next = time.Now().Add(max(remote.Backoff(l.fails, e.s.o.BackoffMin, e.s.o.BackoffMax), later(err)))
	}
	switch {
	case final:
		e.since, e.why = time.Time{}, nil
	case !brokenOff:
		if e.why = err; e.since.IsZero() {
			e.since = time.Now()
		}
		if time.Since(e.since) >= parkAfter {
			e.giveUpLocked()
		}
	}
	e.giveLocked()
	e.mu.Unlock()
	switch {
	case err == nil:
		j.ticket.Delivered()
	case final:
		j.ticket.Refused(err)
	case dropped:
		j.ticket.Dropped(sink.Retention)
	}
	e.tell(err, final, brokenOff)
}

// tell counts a try and updates the endpoint's health.
func (e *endpoint) tell(err error, final, brokenOff bool) {
	result := "ok"
	switch {
	case brokenOff:
		return
	case !final:
		result = "failed"
		e.s.note(e, err)
	case err != nil:
		result = "refused"
		e.s.note(e, nil)
	default:
		e.s.note(e, nil)
	}
	e.s.o.Metrics.requests.WithLabelValues(e.o.Name, result).Inc()
}

// later returns how long an endpoint asks to wait.
func later(err error) time.Duration {
	var w *waitError
	if errors.As(err, &w) {
		return w.after
	}
	return 0
}

package trace

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// Errors of Begin.
var (
	errFull  = errors.New("the maximum number of traces is open")
	ErrShare = errors.New("half of all traces are of this subject")
)

// Options configure Traces.
type Options struct {
	// Max is the maximum number of tracers.
	Max int
	// WaitDurable waits until a record is durable in the journal.
	WaitDurable func(ctx context.Context, seq uint64) error
	// Durable returns the journal's durable mark.
	Durable func() uint64
	Bounds  Bounds
}

// Traces passes steps to tracers. A nil Traces has none.
type Traces struct {
	o    Options
	list atomic.Pointer[[]*Tracer] // nil without tracers
	mu   sync.Mutex                // guards changes of list
	stop context.CancelFunc        // stops the goroutine that follows the journal's mark, while there is a tracer
	done chan struct{}

	dropped atomic.Uint64
}

// New returns Traces without tracers.
func New(o Options) *Traces { return &Traces{o: o} }

// On reports whether there is a tracer. It is a message's only cost while there is none.
func (t *Traces) On() bool { return t != nil && t.list.Load() != nil }

// Tracers returns the number of tracers, without exporters.
func (t *Traces) Tracers() int { return lookers(t.tracers()) }

func lookers(all []*Tracer) (n int) {
	for _, tr := range all {
		if tr.filter.Sampled == nil {
			n++
		}
	}
	return n
}

func (t *Traces) tracers() []*Tracer {
	if t == nil {
		return nil
	}
	if l := t.list.Load(); l != nil {
		return *l
	}
	return nil
}

// Dropped returns the number of steps left out since the start.
func (t *Traces) Dropped() uint64 { return t.dropped.Load() }

// Begin starts a tracer, until Tracer.End. It returns errFull if Max is reached, and ErrShare if this owner has half of
// the places.
func (t *Traces) Begin(f Filter, owner string) (*Tracer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := 0
	for _, tr := range t.tracers() {
		if tr.filter.Sampled == nil && tr.owner == owner {
			own++
		}
	}
	switch {
	case own >= (t.o.Max+1)/2:
		return nil, ErrShare
	case t.Tracers() >= t.o.Max:
		return nil, errFull
	}
	n := newTracer(t, f, t.o.Bounds)
	n.owner = owner
	return t.beginLocked(n), nil
}

// Export starts an exporter of sampled messages, until Tracer.End. It does not count towards Max.
func (t *Traces) Export(s *Sampling, b Bounds) *Tracer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.beginLocked(newTracer(t, Filter{Sampled: s}, b))
}

func (t *Traces) beginLocked(n *Tracer) *Tracer {
	old := t.tracers()
	list := append(slices.Clone(old), n)
	t.list.Store(&list)
	if len(old) == 0 {
		ctx, stop := context.WithCancel(context.Background())
		t.stop, t.done = stop, make(chan struct{})
		go t.follow(ctx, t.done)
	}
	return n
}

func (t *Traces) end(n *Tracer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(t.tracers()), func(o *Tracer) bool { return o == n })
	if len(list) > 0 {
		t.list.Store(&list)
		return
	}
	t.list.Store(nil)
	if t.stop != nil {
		t.stop()
		<-t.done
		t.stop = nil
	}
}

// follow passes the journal's durable mark to the tracers.
func (t *Traces) follow(ctx context.Context, done chan struct{}) {
	defer close(done)
	for {
		mark := t.o.Durable()
		for _, n := range t.tracers() {
			n.durable(mark)
		}
		if t.o.WaitDurable(ctx, mark+1) != nil {
			return
		}
	}
}

// Received reports records that a connection has given to the journal; at is when it began to.
func (t *Traces) Received(recs []message.Record, at time.Time) {
	for _, n := range t.tracers() {
		for i := range recs {
			if recs[i].Kind == message.KindPublish {
				n.received(&recs[i], at.UTC())
			}
		}
	}
}

// Refused reports a refused PUBLISH.
func (t *Traces) Refused(rec *message.Record, code byte, reason string) {
	for _, n := range t.tracers() {
		n.refused(rec, code, reason)
	}
}

// Acknowledged reports an acknowledgement.
func (t *Traces) Acknowledged(seq uint64, code byte) {
	for _, n := range t.tracers() {
		n.acknowledged(seq, code, t.o.Durable())
	}
}

// Wanted reports whether a tracer wants this record, which the rules are about to evaluate.
func (t *Traces) Wanted(rec *message.Record) bool {
	return slices.ContainsFunc(t.tracers(), func(n *Tracer) bool { return n.wants(rec) })
}

// Evaluation is the result of the rules for a message.
type Evaluation struct {
	Record *message.Record // a copy that no longer changes
	// Rules are the rules' ids by index.
	Rules []string
	// Messages is the number of messages for targets.
	Messages int
	At       time.Time // when
	// Explain returns each rule's step. It is called later, on a goroutine of the tracer's user.
	Explain func() []Step
}

// Evaluated reports the rules' result for a message, before any target has it.
func (t *Traces) Evaluated(e *Evaluation) {
	e.At = now()
	for _, n := range t.tracers() {
		if n.wants(e.Record) {
			n.evaluated(e)
		}
	}
}

// Settled reports the outcome of a target's message. rule and target are indexes.
func (t *Traces) Settled(seq uint64, rule, target uint16, sink, outcome, reason string) {
	for _, n := range t.tracers() {
		n.settled(seq, rule, target, Step{Sink: sink, Outcome: outcome, Reason: reason})
	}
}

func now() time.Time { return time.Now().UTC() }

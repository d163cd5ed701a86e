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

// Why nobody else may look on.
var (
	ErrFull  = errors.New("as many look on as may")
	ErrShare = errors.New("half of those who may look on are this one's")
)

// Options of Traces.
type Options struct {
	// Max is how many may look on at once.
	Max int
	// WaitDurable waits until the journal has a record durably.
	WaitDurable func(ctx context.Context, seq uint64) error
	// Durable is the journal's mark.
	Durable func() uint64
	Bounds  Bounds
}

// Traces tells those who look on. A nil one has nobody who does.
type Traces struct {
	o    Options
	list atomic.Pointer[[]*Tracer] // nil while nobody looks on
	mu   sync.Mutex                // of changes of list
	stop context.CancelFunc        // of the goroutine that follows the journal's mark, while somebody looks on
	done chan struct{}

	dropped atomic.Uint64
}

// New makes Traces that nobody looks on.
func New(o Options) *Traces { return &Traces{o: o} }

// On reports whether somebody looks on. It is all that a message costs while nobody does.
func (t *Traces) On() bool { return t != nil && t.list.Load() != nil }

// Tracers is how many look on, whoever exports left out.
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

// Dropped is how many steps were not told, since the start.
func (t *Traces) Dropped() uint64 { return t.dropped.Load() }

// Begin has an owner look on until Tracer.End. It answers ErrFull when there is no place, and ErrShare when this owner has half of them.
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
		return nil, ErrFull
	}
	n := newTracer(t, f, t.o.Bounds)
	n.owner = owner
	return t.beginLocked(n), nil
}

// Export has an exporter look on sampled messages until Tracer.End. It takes no place of those who look on.
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

// follow tells the tracers how far the journal is durable.
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

// Received tells of records that a connection has given to the journal, and when it began to.
func (t *Traces) Received(recs []message.Record, at time.Time) {
	for _, n := range t.tracers() {
		for i := range recs {
			if recs[i].Kind == message.KindPublish {
				n.received(&recs[i], at.UTC())
			}
		}
	}
}

// Refused tells of a PUBLISH that a connection has not taken.
func (t *Traces) Refused(rec *message.Record, code byte, reason string) {
	for _, n := range t.tracers() {
		n.refused(rec, code, reason)
	}
}

// Acknowledged tells of an acknowledgement.
func (t *Traces) Acknowledged(seq uint64, code byte) {
	for _, n := range t.tracers() {
		n.acknowledged(seq, code, t.o.Durable())
	}
}

// Wanted reports whether somebody looks on this record, which the rules are about to see.
func (t *Traces) Wanted(rec *message.Record) bool {
	return slices.ContainsFunc(t.tracers(), func(n *Tracer) bool { return n.wants(rec) })
}

// Evaluation is what the rules have made of a message.
type Evaluation struct {
	Record *message.Record // copied, and not changed any more
	// Rules are the ids of the rules by index.
	Rules []string
	// Messages is how many the targets get.
	Messages int
	At       time.Time // when
	// Explain tells each rule's step. It is called later, on a goroutine of whoever looks on.
	Explain func() []Step
}

// Evaluated tells what the rules have made of a message, before any target has it.
func (t *Traces) Evaluated(e *Evaluation) {
	e.At = now()
	for _, n := range t.tracers() {
		if n.wants(e.Record) {
			n.evaluated(e)
		}
	}
}

// Settled tells what has become of what a rule sends. rule and target are indexes.
func (t *Traces) Settled(seq uint64, rule, target uint16, sink, outcome, reason string) {
	for _, n := range t.tracers() {
		n.settled(seq, rule, target, Step{Sink: sink, Outcome: outcome, Reason: reason})
	}
}

// now is when a step is told.
func now() time.Time { return time.Now().UTC() }

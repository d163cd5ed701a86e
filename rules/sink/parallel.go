package sink

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// This file evaluates messages on several goroutines. A round is a stretch of consecutive messages. Each shard of VINs
// is taken by one goroutine, which evaluates its messages in order and renders those for live sinks. Then one goroutine
// does everything else in journal order: counts, chunks, windows, delivery. A round is therefore part of a batch like a
// single message, and its result does not depend on which goroutine evaluated. A vehicle with slow messages occupies
// one goroutine; the others take the remaining shards.

const (
	// worthGoing is the minimum work per goroutine: beginning and ending a round costs a few percent of it.
	worthGoing = 300 * time.Microsecond
	// maxRound bounds the messages of a round, and so the memory for its results.
	maxRound = 1024
	// maxReady and maxReadyBytes bound what one goroutine renders in a round; the rest is rendered at delivery.
	maxReady      = 4096
	maxReadyBytes = 2 << 20
	// keepReady is the largest buffer of a rendered message that is reused.
	keepReady = 64 << 10
)

// rounds is the state of parallel evaluation. The evaluator owns it.
type rounds struct {
	results []workerResult
	shards  [state.Shards][]int32 // messages of the current round
	busy    []int32               // shards with messages, fullest first
	next    atomic.Int32          // in busy
	taken   []decided             // by message
	live    []bool                // by pipeline
	each    time.Duration         // recent time per message on one goroutine
}

// workerResult is one goroutine's results in a round.
type workerResult struct {
	worker    evaluator
	decisions []engine.Decision
	ready     []*rendered // by decision; nil if not rendered
	spare     []*rendered
	used      int
	bytes     int
	_         [64]byte // keeps the counters of two results out of one cache line
}

// rendered is a message rendered in advance.
type rendered struct {
	out op.Rendered
	err error
}

// decided locates the decisions about a message.
type decided struct {
	result   *workerResult
	from, to int
}

// use assigns the workers of a rule set to the results.
func (r *rounds) use(workers []evaluator) {
	r.results, r.each = make([]workerResult, len(workers)), 0
	for i := range workers {
		r.results[i].worker = workers[i]
	}
}

// publish evaluates the messages of one stretch.
func (d *Dispatcher) publish(recs []message.Record) {
	for len(recs) > 0 {
		n := min(len(recs), maxRound)
		d.round(recs[:n])
		recs = recs[n:]
	}
}

func (d *Dispatcher) round(recs []message.Record) {
	r := &d.rounds
	goroutines := min(len(r.results), len(recs), int(time.Duration(len(recs))*r.each/worthGoing))
	began := time.Now()
	if goroutines < 2 {
		for i := range recs {
			d.route(&recs[i])
		}
		r.took(time.Since(began), len(recs))
		return
	}
	d.deal(recs)
	var wg sync.WaitGroup
	var spent atomic.Int64
	for i := range goroutines {
		work := func() {
			from := time.Now()
			d.evaluateShards(&r.results[i], recs)
			spent.Add(int64(time.Since(from)))
		}
		if i == goroutines-1 {
			work()
			break
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			work()
		}()
	}
	wg.Wait()
	r.took(time.Duration(spent.Load()), len(recs))
	d.o.Metrics.parallel.Add(float64(len(recs)))
	for i := range recs {
		t := &r.taken[i]
		d.settleOn(&recs[i], t.result.decisions[t.from:t.to], t.result.ready[t.from:t.to])
	}
}

// took updates the time per message.
func (r *rounds) took(t time.Duration, n int) {
	each := t / time.Duration(n)
	r.each += (each - r.each) / 8
}

func (d *Dispatcher) deal(recs []message.Record) {
	r := &d.rounds
	for _, s := range r.busy {
		r.shards[s] = r.shards[s][:0]
	}
	r.busy = r.busy[:0]
	for i := range recs {
		s := int32(state.ShardOf(recs[i].VIN()))
		if len(r.shards[s]) == 0 {
			r.busy = append(r.busy, s)
		}
		r.shards[s] = append(r.shards[s], int32(i))
	}
	slices.SortFunc(r.busy, func(a, b int32) int { return cmp.Compare(len(r.shards[b]), len(r.shards[a])) })
	r.next.Store(0)
	if len(r.taken) < len(recs) {
		r.taken = make([]decided, maxRound)
	}
	r.live = r.live[:0]
	for _, p := range d.pipelines {
		p.mu.Lock()
		r.live = append(r.live, p.mode == live)
		p.mu.Unlock()
	}
	for i := range r.results {
		r.results[i].reset()
	}
}

// evaluateShards evaluates shard after shard until none is left.
func (d *Dispatcher) evaluateShards(l *workerResult, recs []message.Record) {
	r := &d.rounds
	for {
		k := int(r.next.Add(1)) - 1
		if k >= len(r.busy) {
			return
		}
		for _, i := range r.shards[r.busy[k]] {
			from := len(l.decisions)
			l.decisions = l.worker.Eval(&recs[i], l.decisions)
			for j := from; j < len(l.decisions); j++ {
				l.ready = append(l.ready, d.render(l, &recs[i], &l.decisions[j]))
			}
			r.taken[i] = decided{l, from, len(l.decisions)}
		}
	}
}

// render renders a message in advance. It returns nil if the message is not delivered in this round, or if there is no
// room.
func (d *Dispatcher) render(l *workerResult, rec *message.Record, dec *engine.Decision) *rendered {
	if dec.Shadow || l.used >= maxReady || l.bytes >= maxReadyBytes {
		return nil
	}
	kind := d.current.set.Sink(*dec)
	i := slices.IndexFunc(d.pipelines, func(p *pipeline) bool { return p.kind == kind })
	if i < 0 || !d.rounds.live[i] {
		return nil
	}
	m := l.take()
	m.err = l.worker.Render(*dec, rec, &m.out)
	l.bytes += len(m.out.Buf)
	return m
}

func (l *workerResult) take() *rendered {
	if l.used == len(l.spare) {
		l.spare = append(l.spare, &rendered{})
	}
	m := l.spare[l.used]
	l.used++
	return m
}

func (l *workerResult) reset() {
	for _, m := range l.spare[:l.used] {
		if cap(m.out.Buf) > keepReady {
			*m = rendered{}
		}
	}
	clear(l.decisions)
	l.decisions, l.ready, l.used, l.bytes = l.decisions[:0], l.ready[:0], 0, 0
}

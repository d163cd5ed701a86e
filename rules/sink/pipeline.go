package sink

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
	"cellgate/broker/wal"
	"cellgate/rules/engine"
	"cellgate/rules/op"
)

// maxTracked bounds the records between a sink's cursor and the newest one in flight, and so the memory that one
// unsettled message can hold.
const maxTracked = 1 << 16

// sampleDelivery is the sampling interval, in records, of delivery times.
const sampleDelivery = 16

// mode is how a pipeline gets its messages.
type mode uint8

const (
	live    mode = iota // from the evaluator
	logging             // from the decision log, by the loader
)

// renderer renders decisions: a worker of the running engine, or a rule set.
type renderer interface {
	Render(d engine.Decision, rec *message.Record, out *op.Rendered) error
}

// form is reused memory for rendering one message after the other.
type form struct {
	out     op.Rendered
	message Message
}

// pipeline feeds one sink.
//
// While live, the evaluator offers each record and delivers its messages itself; their decisions stay in memory as
// chunks until the cursor has passed them or a checkpoint writes them to the log. When the window is full the pipeline
// switches to logging: all chunks go to the log, later ones too, and the loader feeds the sink from there until it has
// loaded everything and there is space again. Every message is delivered by either the evaluator or the loader, never
// both, in order.
type pipeline struct {
	sink   Sink
	kind   op.SinkKind
	parker Parker // nil if the sink does not park
	name   string
	limits Limits
	policy WhenFull
	dlog   *wal.Log
	// ageOutBytes is how much of the journal the sink may hold back under AgeOut.
	ageOutBytes int64
	env         *environment
	log         *slog.Logger

	wake     chan struct{} // wakes the loader: a chunk or room
	watch    Watcher       // may be nil
	refusals deadLetterQueue

	window  window
	eval    evaluating
	watched watched

	delivery prometheus.Observer

	mu        sync.Mutex // guards the rest
	mode      mode
	readable  bool // logging, and readPos is valid
	tracker   tracker
	mem       []chunk // live: decided, not in a log yet
	backlog   uint64  // records in the decision log, or in the evaluator's chunk for it
	oldest    uint64  // the first of them when the log was opened
	waitingAt int64   // ReceivedAt of the oldest of them, or of one shortly before
	// For lag: the cursor, and since when it has been seen there.
	stuckAt    uint64
	stuckSince time.Time
	loaded     uint64 // highest record delivered or skipped
	evaluated  uint64 // E, as last reported to this pipeline
	readPos    wal.Position
	now        counts // current
	settled    counts // as of the cursor: only Delivered, DeadLettered and Dropped
	damage     error  // the decision log cannot be read
	// base is the number that the ledger has received in addition to the records appended to the journal since it was opened.
	base    uint64
	drifted bool // an unknown number of messages was lost
	parked  parkedRecords
}

// window counts what is in flight to a sink, readable without a lock: incremented by delivery, decremented by settling.
type window struct {
	messages atomic.Int64
	bytes    atomic.Int64
	starved  atomic.Bool   // the loader waits for room
	floor    atomic.Uint64 // age_out: records up to here are skipped
	taken    atomic.Uint64 // messages that the sink has delivered, without parked ones
	again    atomic.Int64  // messages in parked.before
}

// evaluating is used only by the evaluator's goroutine.
type evaluating struct {
	chunk     chunkWriter
	ticks     uint64 // included in received
	received  uint64 // counted, not yet published under the pipeline's lock
	filtered  uint64
	form      form
	decisions []engine.Decision // of the current record
	ready     []*rendered       // rendered in advance; may be empty
}

// watched is the last mark passed to watch.
type watched struct {
	mu   sync.Mutex // orders the calls
	mark uint64
}

func (d *Dispatcher) addPipeline(b *Binding) {
	name := b.Sink.Name()
	p := &pipeline{
		sink: b.Sink, kind: b.Sink.Kind(), parker: b.Sink.Parker(), name: name, limits: b.Limits, policy: b.WhenFull,
		ageOutBytes: b.AgeOutBytes, watch: b.Watch, env: d.env,
		log: d.o.Log.With("sink", name), wake: make(chan struct{}, 1),
	}
	p.delivery = d.o.Metrics.delivery.WithLabelValues(name)
	p.refusals.p, p.refusals.wake = p, make(chan struct{}, 1)
	d.env.byName[name] = p
	d.env.pipelines = append(d.env.pipelines, p)
	d.pipelines = append(d.pipelines, p)
}

// environment is shared by the pipelines.
type environment struct {
	idPrefix   string
	trace      *trace.Traces
	journal    Journal
	sets       *ruleSets
	metrics    *Metrics
	deliveries deliveries
	// errorTopic takes the errors of rules without their own.
	errorTopic string
	// appended returns the journal's last sequence and the messages up to it since it was opened.
	appended func() (last, messages uint64)
	// deadLetters is the sink for dead letters: the Kafka sink.
	deadLetters Sink
	parkedStore *parkedStore
	pipelines   []*pipeline
	byName      map[string]*pipeline
	refusals    refusals
}

// burst is how many messages of one record are delivered at once without asking for room. A record with more goes
// through the decision log and is delivered as the sink has room: otherwise a vehicle could fill the memory with one
// message that contains a long list.
const burst = 256

// offer requests room for a record with n ≥ 1 messages. If isLive, the caller must deliver them under slot at once;
// else they wait in the log.
func (p *pipeline) offer(seq uint64, at int64, n int) (slot uint64, isLive bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.publishLocked()
	if p.mode == live && (n > burst || !p.roomLocked()) {
		p.mode, p.readable, p.loaded = logging, false, seq-1
		p.env.metrics.modeChanges.WithLabelValues(p.name, "log").Inc()
	}
	if p.mode == logging {
		if p.backlog == 0 {
			p.waitingAt = at
		}
		p.backlog++
		if p.env.trace.On() {
			p.traceWaits(seq)
		}
		return 0, false
	}
	p.window.messages.Add(int64(n))
	return p.beginLocked(seq, at, n), true
}

// beginLocked starts to track a record.
func (p *pipeline) beginLocked(seq uint64, at int64, n int) (slot uint64) {
	p.watchBegun(seq)
	return p.tracker.add(seq, at, n)
}

func (p *pipeline) watchBegun(seq uint64) {
	if p.watch != nil {
		p.watch.Begun(seq)
	}
}

func (p *pipeline) watchDone(seq uint64) {
	if p.watch != nil {
		p.watch.Done(seq)
	}
}

// settleLocked records one message's outcome.
func (p *pipeline) settleLocked(slot uint64, o outcome, reason string) {
	if e := p.tracker.settle(slot, o, reason); e != nil {
		p.now.settled(e.outcome, e.reason)
		if e.outcome == delivered && e.seq%sampleDelivery == 0 {
			p.delivery.Observe(max(0, time.Since(time.UnixMilli(e.at)).Seconds())) // the wall clock may step
		}
		p.watchDone(e.seq)
	}
}

// publishLocked makes the evaluator's counts visible. Both terms of a record appear together.
func (p *pipeline) publishLocked() {
	p.now.Received += p.eval.received
	p.now.Filtered += p.eval.filtered
	p.base += p.eval.ticks // ticks are not messages of the journal
	p.eval.received, p.eval.filtered, p.eval.ticks = 0, 0, 0
}

// lost counts n records that the journal lost before evaluation: received, because they were acknowledged, and dropped.
// The cursor passes them with the evaluator, like filtered ones.
func (p *pipeline) lost(n uint64, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drifted = true
	p.now.Received += n
	p.now.add(dropped, reason, n)
	p.settled.add(dropped, reason, n)
}

func (p *pipeline) roomLocked() bool {
	return p.window.messages.Load() < int64(p.limits.Messages) && p.window.bytes.Load() < p.limits.Bytes &&
		p.tracker.len() < maxTracked
}

// ampleLocked reports whether there is enough room to switch back to live.
func (p *pipeline) ampleLocked() bool {
	return p.window.messages.Load() < int64(p.limits.Messages)/2 && p.window.bytes.Load() < p.limits.Bytes/2 &&
		p.tracker.len() < maxTracked/2
}

// handOver delivers the messages of one record and renders those not in ready. many means that the record has several.
func (p *pipeline) handOver(r renderer, set uint32, slot uint64, rec *message.Record, ds []engine.Decision, many bool, ready []*rendered, f *form) {
	for i := range ds {
		d := &ds[i]
		t := Ticket{to: p, slot: slot, set: set, rule: d.Rule, target: d.Target, seq: rec.Seq, many: many}
		if p.parker != nil || d.Item != 0 || d.Window != nil {
			t.more = moreOf(d)
		}
		if p.parkedBefore(t) {
			continue
		}
		var out *op.Rendered
		var err error
		if i < len(ready) && ready[i] != nil {
			out, err = &ready[i].out, ready[i].err
		} else {
			out, err = &f.out, r.Render(*d, rec, &f.out)
		}
		if err != nil {
			t.Refused(err)
			continue
		}
		f.message = Message{Record: d.Record(rec), Out: out, idPrefix: p.env.idPrefix}
		t.dead = out.DeadLetter
		t.size = int32(f.message.Size()) //nolint:gosec // bounded by the largest packet
		p.window.bytes.Add(int64(t.size))
		p.sink.Deliver(&f.message, t)
	}
}

// endBatch ends a batch: everything up to seq is evaluated. It keeps the chunk or logs it. On an error the disk did not
// take it, and the caller must retry.
func (p *pipeline) endBatch(seq uint64) error {
	p.mu.Lock()
	p.publishLocked()
	p.evaluated = seq
	p.recountDriftLocked()
	m := p.mode
	if m == live {
		if !p.eval.chunk.empty() {
			p.mem = append(p.mem, p.eval.chunk.take())
		}
		p.pruneLocked()
	}
	p.mu.Unlock()
	p.notify()
	if m == live || p.eval.chunk.empty() {
		return nil
	}
	return p.logChunk()
}

// pruneLocked drops chunks that the cursor has passed.
func (p *pipeline) pruneLocked() {
	c, n := p.cursorLocked(), 0
	for n < len(p.mem) && p.mem[n].last <= c {
		n++
	}
	if n > 0 {
		rest := copy(p.mem, p.mem[n:])
		clear(p.mem[rest:])
		p.mem = p.mem[:rest]
	}
}

// logChunk appends the evaluator's chunk to the log, after the chunks that were in memory when the pipeline stopped
// being live.
func (p *pipeline) logChunk() error {
	if err := p.logMem(); err != nil {
		return err
	}
	start := p.dlog.End()
	if err := p.dlog.Append(p.eval.chunk.data, p.eval.chunk.last); err != nil {
		return err
	}
	p.eval.chunk.last = 0
	p.mu.Lock()
	if !p.readable {
		p.readable, p.readPos = true, start
	}
	p.mu.Unlock()
	p.signal()
	return nil
}

// logMem moves the chunks in memory to the log. Only the evaluator or, at a boundary, the checkpoint calls it.
func (p *pipeline) logMem() error {
	p.mu.Lock()
	p.pruneLocked()
	mem := p.mem
	p.mu.Unlock()
	done := 0
	var err error
	for ; done < len(mem) && err == nil; done++ {
		if err = p.dlog.Append(mem[done].data, mem[done].last); err != nil {
			break
		}
	}
	p.mu.Lock()
	rest := copy(p.mem, p.mem[done:])
	clear(p.mem[rest:])
	p.mem = p.mem[:rest]
	p.mu.Unlock()
	return err
}

// cursorLocked returns the sequence up to which everything is settled.
func (p *pipeline) cursorLocked() uint64 {
	if e, ok := p.tracker.oldest(); ok {
		return e.seq - 1
	}
	return p.reachedLocked()
}

// reachedLocked returns the sequence up to which everything is delivered to the sink, or has no message for it.
func (p *pipeline) reachedLocked() uint64 {
	if p.backlog > 0 {
		return p.loaded
	}
	return p.evaluated
}

func (p *pipeline) cursor() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cursorLocked()
}

// settle implements settler.
func (p *pipeline) settle(t Ticket, o outcome, reason string) {
	if p.env.trace.On() {
		p.traceSettled(t.seq, t.rule, t.target, o, reason)
	}
	p.window.messages.Add(-1)
	p.window.bytes.Add(-int64(t.size))
	p.mu.Lock()
	p.settleLocked(t.slot, o, reason)
	if o == delivered {
		p.window.taken.Add(1)
	}
	p.advanceLocked()
	p.mu.Unlock()
	if o == delivered {
		p.env.deliveries.delivered(t.set, t.rule)
	}
	if p.window.starved.Load() {
		p.signal()
	}
}

// advanceLocked moves the cursor over settled and parked records.
func (p *pipeline) advanceLocked() {
	for {
		e, ok := p.tracker.pop()
		switch {
		case !ok:
			return
		case e.parked > 0:
			p.parked.leave(&e)
		default:
			p.settled.settled(e.outcome, e.reason)
		}
	}
}

// abandoned implements settler.
func (p *pipeline) abandoned(seq uint64) bool { return seq <= p.window.floor.Load() }

// notify passes a changed mark to the watcher.
func (p *pipeline) notify() {
	if p.watch == nil {
		return
	}
	p.watched.mu.Lock()
	defer p.watched.mu.Unlock()
	p.mu.Lock()
	mark := p.reachedLocked()
	p.mu.Unlock()
	if mark > p.watched.mark {
		p.watched.mark = mark
		p.watch.Reached(mark)
	}
}

func (p *pipeline) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

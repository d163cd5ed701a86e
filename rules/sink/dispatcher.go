package sink

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/engine"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// Dispatcher evaluates the journal and feeds the sinks.
type Dispatcher struct {
	o         Options
	env       *environment
	sets      *ruleSets
	pipelines []*pipeline

	// evalMu is held by the evaluator during one journal batch, and by a checkpoint while it copies, so that the copy
	// is of one boundary.
	evalMu    sync.Mutex
	evaluated uint64 // E
	torn      bool   // the evaluator stopped within a batch: no more checkpoints
	state     *state.State
	vins      atomic.Int64 // in state
	removed   atomic.Int64 // operators in state without a rule
	current   setInUse
	scratch   []engine.Decision
	rounds    rounds
	countsMu  sync.Mutex // guards counts.last
	counts    ruleCounts

	// Owned by checkpoint.
	saveMu    sync.Mutex
	mark      ahead // what was appended at the last capture
	operators *operatorLog
	forgot    error     // why operators' state was not restored whole
	unstored  *snapshot // captured and not stored yet
	last      *snapshot // as stored

	unevaluated unevaluated
	ticker      *ticker
	limits      engine.Limits
	limiter     *limiter
	departures  departures

	applyMu sync.Mutex
	applied string // hash of the last rule set appended to the journal
	unsure  bool   // another one may have been appended since

	healthMu sync.Mutex
	health   remote.Health // of the dispatcher itself

	cancel  context.CancelFunc
	wg      sync.WaitGroup
	started bool
	fatal   sync.Once
}

// setInUse is the rule set in force at E.
type setInUse struct {
	set     *ruleSet
	index   uint32
	hash    string
	worker  evaluator
	matched []prometheus.Counter // by rule
	failed  []prometheus.Counter
}

// New opens the dispatcher's state and retains the journal from its position. It delivers nothing before Start.
func New(o Options) (*Dispatcher, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	stored := o.Rules
	stored.Stored = true
	compile := rulesCompiler(stored)
	d := &Dispatcher{
		o:      o,
		sets:   &ruleSets{db: o.DB, compile: compile, compiled: map[string]*ruleSet{}},
		state:  state.NewState(o.State),
		health: remote.Health{Name: "dispatch", OK: true, Since: time.Now()},
	}
	d.env = &environment{
		idPrefix: msgIDPrefix(o.Node, o.Journal.Epoch()), trace: o.Trace,
		journal: o.Journal, sets: d.sets, metrics: o.Metrics, errorTopic: o.Rules.ErrorTopic, appended: o.Journal.Appended,
		byName: map[string]*pipeline{}, deliveries: deliveries{sets: d.sets},
	}
	d.ticker, d.limiter = newTicker(&o), newLimiter(&o)
	d.departures.waiting = map[string]*export{}
	d.limits.Exceeded = d.limiter.ask
	for i := range o.Sinks {
		d.addPipeline(&o.Sinks[i])
	}
	d.env.deadLetters = d.pipelineOf(op.SinkKafka).sink
	d.env.parkedStore = newParkedStore(&o, d.env)
	if err := d.restore(); err != nil {
		d.closeLogs()
		return nil, err
	}
	if o.Metrics.reg != nil {
		reg := o.Metrics.reg
		err := errors.Join(reg.Register(d.readings()), reg.Register(d.ruleReadings()), reg.Register(d.env.parkedStore.readings()))
		if err != nil {
			d.closeLogs()
			return nil, fmt.Errorf("dispatch: %w", err)
		}
	}
	return d, nil
}

// msgIDPrefix returns the part of message.ID before the sequence.
func msgIDPrefix(node string, epoch uint64) string {
	id := message.ID(node, epoch, 0)
	return id[:len(id)-1]
}

func (d *Dispatcher) logDir(p *pipeline) string { return filepath.Join(d.o.Dir, p.name) }

// Start begins evaluation and delivery.
func (d *Dispatcher) Start() error {
	reader, err := d.o.Journal.NewReader(d.evaluated + 1)
	if err != nil {
		return fmt.Errorf("dispatch from record %d: %w", d.evaluated+1, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.started = cancel, true
	due, waits := d.state.NextDue()
	d.ticker.begin(ctx, waits || d.evaluated < d.o.Journal.Last())
	d.ticker.note(due, waits, d.evaluated)
	d.spawn(func() { d.ticker.run(ctx) })
	d.spawn(func() { d.limiter.run(ctx) })
	d.env.parkedStore.start()
	d.spawn(func() { d.env.parkedStore.run(ctx) })
	d.spawn(func() { d.evaluate(ctx, reader) })
	if d.o.CheckpointInterval > 0 {
		d.spawn(func() { d.checkpoints(ctx) })
	}
	for _, p := range d.pipelines {
		d.spawn(func() { (&loader{p: p}).run(ctx) })
		d.spawn(func() { p.refusals.run(ctx) })
		p.signal()
		p.notify()
	}
	return nil
}

func (d *Dispatcher) spawn(f func()) {
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		f()
	}()
}

// Stop stops evaluation, lets the sinks finish until ctx ends, and writes a last checkpoint. Messages that are not
// settled until then are delivered after the next start.
func (d *Dispatcher) Stop(ctx context.Context) error {
	d.stopWorkers()
	var errs []error
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, p := range d.pipelines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := p.sink.Close(ctx); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("close sink %s: %w", p.name, err))
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if d.started {
		errs = append(errs, d.Checkpoint())
	}
	d.env.refusals.report(d.o.Log, time.Now().Add(refusalInterval))
	d.closeLogs()
	return errors.Join(errs...)
}

// Abandon ends the dispatcher like a crash: nothing is finished or written, and what the last checkpoint lacks is
// repeated after the next start. It also closes the sinks at once. It is for the exit after a fatal error.
func (d *Dispatcher) Abandon() {
	d.stopWorkers()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, p := range d.pipelines {
		_ = p.sink.Close(ctx)
	}
	d.closeLogs()
}

func (d *Dispatcher) stopWorkers() {
	if d.cancel != nil {
		d.cancel()
	}
	d.wg.Wait()
}

func (d *Dispatcher) closeLogs() {
	for _, p := range d.pipelines {
		if p.dlog != nil {
			p.dlog.Close()
		}
	}
	if d.operators != nil {
		d.operators.log.Close()
	}
	d.env.parkedStore.close()
}

// fail reports a fatal error, once.
func (d *Dispatcher) fail(err error) {
	d.setHealth(err)
	d.fatal.Do(func() {
		d.o.Log.Error("dispatch failed", "err", err)
		go d.o.OnFatal(err)
	})
}

func (d *Dispatcher) setHealth(err error) {
	d.healthMu.Lock()
	defer d.healthMu.Unlock()
	if ok := err == nil; ok != d.health.OK {
		d.health.OK, d.health.Since = ok, time.Now()
	}
	d.health.Reason = ""
	if err != nil {
		d.health.Reason = err.Error()
	}
}

// evaluate is the evaluator's loop.
func (d *Dispatcher) evaluate(ctx context.Context, reader *journal.Reader) {
	defer func() { _ = reader.Close() }()
	for {
		b, err := reader.Next(ctx, 0)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, journal.ErrClosed) {
				d.fail(fmt.Errorf("dispatch: %w", err))
			}
			return
		}
		d.batch(ctx, b)
	}
}

func (d *Dispatcher) batch(ctx context.Context, b *journal.Batch) {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	if len(b.Records) > 0 {
		d.unevaluated.at.Store(b.Records[0].ReceivedAt)
	}
	if b.Missing > 0 {
		d.o.Log.Error("journal records could not be read and are not evaluated", "count", b.Missing, "before", b.First)
		d.lost(b.Missing, Corruption)
	}
	for i := 0; i < len(b.Records); i++ {
		rec := &b.Records[i]
		switch rec.Kind {
		case message.KindPublish:
			d.state.Advance(rec.ReceivedAt)
			if d.current.worker == nil && !d.awaitRules(ctx, rec.Seq) {
				return
			}
			d.limits.Reach(rec.ReceivedAt, rec.Seq)
			n := d.stretch(b.Records[i:])
			d.publishTraced(b.Records[i : i+n])
			i += n - 1
		case message.KindRuleSet:
			d.endBatch(ctx, rec.Seq-1)
			d.state.Advance(rec.ReceivedAt)
			d.enter(string(rec.Payload), rec.Seq)
			d.state.Advance(rec.ReceivedAt) // removed operators are forgotten by this time
		case message.KindClockStep:
			d.stepClock(rec)
		case message.KindTick:
			d.tick(rec)
		case message.KindLimit:
			d.limit(rec)
		case message.KindOperatorState:
			d.operatorState(rec)
		case message.KindRelease, message.KindSessionReset:
			// Session records.
		}
	}
	d.endBatch(ctx, b.Last)
	if b.Last == d.o.Journal.Last() {
		d.unevaluated.at.Store(0)
	} else if n := len(b.Records); n > 0 {
		d.unevaluated.at.Store(b.Records[n-1].ReceivedAt)
	}
}

// stretch returns the number of consecutive messages from the first record on.
func (d *Dispatcher) stretch(recs []message.Record) int {
	n := 1
	for n < len(recs) && recs[n].Kind == message.KindPublish && d.state.Steady(recs[n].ReceivedAt) && d.limits.Within(recs[n].ReceivedAt) {
		d.state.Advance(recs[n].ReceivedAt)
		n++
	}
	return n
}

// awaitRules waits for a rule set if none is in force: the state file, or the set's source, was lost. The next applied
// set then evaluates the record. It returns false if ctx has ended.
func (d *Dispatcher) awaitRules(ctx context.Context, seq uint64) bool {
	d.endBatch(ctx, seq-1)
	tried := ""
	for !d.torn && ctx.Err() == nil {
		if hash := d.sets.newest(); hash != tried {
			d.enter(hash, seq)
			tried = hash
		}
		if d.current.worker != nil {
			d.setHealth(nil)
			return true
		}
		d.setHealth(errNoneGoverns)
		d.evalMu.Unlock() // E is at a boundary
		remote.Pause(ctx, 20*time.Millisecond)
		d.evalMu.Lock()
	}
	return false
}

// errNoneGoverns means that no rule set is in force.
var errNoneGoverns = errors.New("the journal has records without a rule set: evaluation waits until rules are applied")

// stepClock notifies the operators that later messages are stamped by another clock.
func (d *Dispatcher) stepClock(rec *message.Record) {
	step, err := rec.ClockStep()
	if err != nil {
		d.o.Log.Error("clock step cannot be read; the rules' intervals may be off by it", "seq", rec.Seq, "err", err)
		return
	}
	d.state.StepClock(step)
}

// lost counts records that cannot be evaluated in every sink's ledger.
func (d *Dispatcher) lost(n uint64, reason string) {
	d.o.Metrics.missing.Add(float64(n))
	for _, p := range d.pipelines {
		p.lost(n, reason)
	}
}

// endBatch closes the pipelines' chunks. If the disk does not take a decision log, it waits: the journal keeps new
// records.
func (d *Dispatcher) endBatch(ctx context.Context, seq uint64) {
	due, waits := d.state.NextDue()
	d.ticker.note(due, waits, seq)
	for _, p := range d.pipelines {
		err := p.endBatch(seq)
		if err == nil {
			continue
		}
		for ; err != nil; err = p.endBatch(seq) {
			d.setHealth(err)
			remote.Pause(ctx, 500*time.Millisecond)
			if ctx.Err() != nil {
				d.torn = true
				return
			}
		}
		d.setHealth(nil)
	}
	d.evaluated = seq
	d.vins.Store(int64(d.state.VINs()))
	removed, _ := d.state.Removed()
	d.removed.Store(int64(removed))
}

// route evaluates one PUBLISH and offers each pipeline its messages.
func (d *Dispatcher) route(rec *message.Record) {
	d.scratch = d.current.worker.Eval(rec, d.scratch[:0])
	d.settleOn(rec, d.scratch, nil)
}

// settleOn counts the decisions about a message and offers each pipeline its own. ready has the messages rendered in
// advance, if any.
func (d *Dispatcher) settleOn(rec *message.Record, ds []engine.Decision, ready []*rendered) {
	d.divide(ds, ready)
	for _, p := range d.pipelines {
		p.eval.received++
		if len(p.eval.decisions) == 0 {
			p.eval.filtered++
		}
	}
	d.offer(rec)
}

// divide distributes the decisions about a record over the pipelines.
func (d *Dispatcher) divide(ds []engine.Decision, ready []*rendered) {
	for _, p := range d.pipelines {
		p.eval.decisions, p.eval.ready = p.eval.decisions[:0], p.eval.ready[:0]
	}
	for i := range ds {
		if ds[i].Target == engine.TargetUndecoded {
			d.current.countUndecoded(&ds[i])
		} else if i == 0 || !ds[i].OfMatch(&ds[i-1]) {
			d.current.count(&ds[i])
		}
		if !ds[i].Shadow {
			p := d.pipelineFor(&ds[i])
			p.eval.decisions = append(p.eval.decisions, ds[i])
			if ready != nil {
				p.eval.ready = append(p.eval.ready, ready[i])
			}
		}
	}
}

// offer offers each pipeline its messages of the record.
func (d *Dispatcher) offer(rec *message.Record) {
	for _, p := range d.pipelines {
		if len(p.eval.decisions) == 0 {
			continue
		}
		p.eval.chunk.add(d.current.index, rec.Seq, p.eval.decisions)
		if slot, isLive := p.offer(rec.Seq, rec.ReceivedAt, len(p.eval.decisions)); isLive {
			p.handOver(d.current.worker, d.current.index, slot, rec, p.eval.decisions, len(p.eval.decisions) > 1, p.eval.ready, &p.eval.form)
		}
	}
}

// pipelineFor returns a decision's pipeline. If the sink was removed from the configuration after the set came into
// force, that is the one for dead letters.
func (d *Dispatcher) pipelineFor(dec *engine.Decision) *pipeline {
	kind := d.current.set.Sink(*dec)
	if p := d.pipelineOf(kind); p != nil {
		return p
	}
	dec.Target, dec.Err = engine.TargetError, fmt.Sprintf("%v: %s", ErrNoSink, kind)
	return d.pipelineOf(op.SinkKafka)
}

// pipelineOf returns the pipeline of a kind of sink, nil if there is none.
func (d *Dispatcher) pipelineOf(kind op.SinkKind) *pipeline {
	for _, p := range d.pipelines {
		if p.kind == kind {
			return p
		}
	}
	return nil
}

package sink

import (
	"strings"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
)

// publishTraced is publish with tracing: each traced message is evaluated by itself, with the operators' state before
// it.
func (d *Dispatcher) publishTraced(recs []message.Record) {
	if !d.o.Trace.On() || d.o.Explain == nil {
		d.publish(recs)
		return
	}
	from := 0
	for i := range recs {
		if !d.o.Trace.Wanted(&recs[i]) {
			continue
		}
		d.publish(recs[from:i])
		d.traced(&recs[i])
		from = i + 1
	}
	d.publish(recs[from:])
}

// traced evaluates one message and reports it before any target gets its part.
func (d *Dispatcher) traced(rec *message.Record) {
	e := d.evaluationOf(rec)
	d.scratch = d.current.worker.Eval(rec, d.scratch[:0])
	for i := range d.scratch {
		if !d.scratch[i].Shadow {
			e.Messages++
		}
	}
	d.o.Trace.Evaluated(e)
	d.settleOn(rec, d.scratch, nil)
}

func (d *Dispatcher) evaluationOf(rec *message.Record) *trace.Evaluation {
	own := rec.Clone()
	own.Topic, own.Client = strings.Clone(rec.Topic), strings.Clone(rec.Client)
	set, known := d.current.set.Set, d.known(rec.VIN())
	e := &trace.Evaluation{Record: &own, Rules: d.current.set.ids}
	e.Explain = func() []trace.Step { return d.o.Explain(set, &own, known) }
	return e
}

// traceSettled reports the outcome of one message.
func (p *pipeline) traceSettled(seq uint64, rule, target uint16, o outcome, reason string) {
	name := [...]string{delivered: trace.Delivered, deadLettered: trace.DeadLettered, dropped: trace.GivenUp}[o]
	p.env.trace.Settled(seq, rule, target, p.name, name, reason)
}

// traceWaits reports that a record's messages wait in the decision log. The evaluator calls it.
func (p *pipeline) traceWaits(seq uint64) {
	for i := range p.eval.decisions {
		p.env.trace.Settled(seq, p.eval.decisions[i].Rule, p.eval.decisions[i].Target, p.name, trace.Waits, "the sink lags")
	}
}

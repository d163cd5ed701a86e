package sink

import (
	"slices"
	"time"

	"cellgate/rules"
)

// RulesHash is the hash of the rule set that ApplyRules made govern last; "" before the first.
func (d *Dispatcher) RulesHash() string {
	d.applyMu.Lock()
	defer d.applyMu.Unlock()
	return d.applied
}

// RulesSource is the source of the rule set of RulesHash; nil when there is none.
func (d *Dispatcher) RulesSource() (*rules.Source, error) {
	hash := d.RulesHash()
	if hash == "" {
		return nil, nil
	}
	return d.sets.source(hash)
}

// Position is the sequence up to which everything is evaluated.
func (d *Dispatcher) Position() uint64 {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	return d.evaluated
}

// Ledger is the account of every sink, each exact at one moment.
func (d *Dispatcher) Ledger() []SinkLedger {
	out := make([]SinkLedger, len(d.pipelines))
	for i, p := range d.pipelines {
		out[i] = p.ledger()
	}
	return out
}

// Lag tells how far each sink is behind.
func (d *Dispatcher) Lag() []SinkLag {
	last := d.o.Journal.Last()
	out := make([]SinkLag, len(d.pipelines))
	for i, p := range d.pipelines {
		out[i] = p.lag(last)
	}
	return out
}

func (p *pipeline) lag(last uint64) SinkLag {
	pending, at := p.pendingSince()
	p.mu.Lock()
	l := SinkLag{Sink: p.name, Messages: pending, Live: p.mode == live, Cursor: p.cursorLocked()}
	if last > p.evaluated {
		l.Messages += last - p.evaluated
	}
	p.mu.Unlock()
	if at > 0 {
		l.Age = max(0, time.Since(time.UnixMilli(at)))
	}
	l.LogBytes = p.dlog.bytes()
	return l
}

// Health is the state of the sinks and of the dispatcher itself.
func (d *Dispatcher) Health() []Health {
	d.troubleMu.Lock()
	out := []Health{d.trouble}
	d.troubleMu.Unlock()
	for _, p := range d.pipelines {
		h := p.sink.Health()
		h.Name = p.name
		p.mu.Lock()
		if p.damage != nil {
			h.OK, h.Reason = false, p.damage.Error()
		}
		p.mu.Unlock()
		out = append(out, h)
	}
	return slices.Clip(out)
}

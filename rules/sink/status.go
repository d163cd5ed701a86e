package sink

import (
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/rules/lang"
	"cellgate/rules/state"
)

// RulesHash returns the hash of the rule set applied last; "" before the first.
func (d *Dispatcher) RulesHash() string {
	d.applyMu.Lock()
	defer d.applyMu.Unlock()
	return d.applied
}

// RulesSource returns the source of the rule set of RulesHash; nil if there is none.
func (d *Dispatcher) RulesSource() (*lang.Source, error) {
	hash := d.RulesHash()
	if hash == "" {
		return nil, nil
	}
	return d.sets.source(hash)
}

// Position returns the sequence up to which everything is evaluated.
func (d *Dispatcher) Position() uint64 {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	return d.evaluated
}

// Overdue returns for how long a message that rules send at a certain time has been due.
func (d *Dispatcher) Overdue() time.Duration { return d.ticker.overdue() }

// OperatorsLost returns why the earlier operator state was not restored completely; nil if it was.
func (d *Dispatcher) OperatorsLost() error { return d.forgot }

// Ledger returns the account of every sink, each consistent.
func (d *Dispatcher) Ledger() []SinkLedger {
	out := make([]SinkLedger, len(d.pipelines))
	for i, p := range d.pipelines {
		out[i] = p.ledger()
		out[i].OldestSeconds = d.lag(p).Age.Seconds()
	}
	return out
}

// Lag returns the lag of each sink.
func (d *Dispatcher) Lag() []SinkLag {
	out := make([]SinkLag, len(d.pipelines))
	for i, p := range d.pipelines {
		out[i] = d.lag(p)
	}
	return out
}

func (d *Dispatcher) lag(p *pipeline) SinkLag {
	now := time.Now()
	p.mu.Lock()
	a := p.now.ledger(p.name, p.receivedLocked(), p.pendingLocked())
	at := p.oldestLocked()
	if at == 0 && a.Unevaluated > 0 {
		at = d.unevaluated.oldest(p.evaluated, now)
	}
	l := SinkLag{Sink: p.name, Messages: a.Pending, Unevaluated: a.Unevaluated, Live: p.mode == live, Cursor: p.cursorLocked()}
	if at > 0 {
		l.Age = max(now.Sub(time.UnixMilli(at)), p.stuckLocked(l.Cursor, now))
	} else {
		p.stuckSince = time.Time{}
	}
	p.mu.Unlock()
	l.LogBytes = p.dlog.Bytes()
	return l
}

// Parked lists the parked destinations and their waiting messages.
func (d *Dispatcher) Parked() []Parked { return d.env.parkedStore.parked() }

// stuckLocked returns for how long the cursor has been seen at its place while something was pending. The oldest
// pending record is at least that old, whatever its time: the wall clock may have been ahead.
func (p *pipeline) stuckLocked(cursor uint64, now time.Time) time.Duration {
	if p.stuckAt != cursor || p.stuckSince.IsZero() {
		p.stuckAt, p.stuckSince = cursor, now
	}
	return now.Sub(p.stuckSince)
}

// Health returns the state of the sinks and of the dispatcher. A sink with records pending for longer than LagAlarm is
// unhealthy, whatever it reports itself.
func (d *Dispatcher) Health() []remote.Health {
	d.healthMu.Lock()
	out := []remote.Health{d.health}
	d.healthMu.Unlock()
	for _, p := range d.pipelines {
		h := p.sink.Health()
		h.Name = p.name
		p.mu.Lock()
		if p.damage != nil {
			h.OK, h.Reason = false, p.damage.Error()
		}
		p.mu.Unlock()
		out = append(out, d.lagging(h, d.lag(p)))
	}
	if h, any := d.env.parkedStore.health(); any {
		out = append(out, h)
	}
	return slices.Clip(out)
}

// lagging adds an excessive lag to the state of a sink.
func (d *Dispatcher) lagging(h remote.Health, l SinkLag) remote.Health {
	if l.Age < d.o.LagAlarm {
		return h
	}
	text := fmt.Sprintf("%d messages wait, the oldest for %s", l.Messages, l.Age.Truncate(time.Second))
	if l.Unevaluated > 0 {
		text += fmt.Sprintf("; the rules have not seen %d of them", l.Unevaluated)
	}
	if h.OK {
		h.OK, h.Since = false, time.Now().Add(d.o.LagAlarm-l.Age)
	}
	if h.Reason != "" {
		text = h.Reason + "; " + text
	}
	h.Reason = text
	return h
}

// Known returns a copy of the operators' state of a VIN.
func (d *Dispatcher) Known(vin string) *state.State {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	return d.known(vin)
}

// known is Known at a boundary of the evaluator.
func (d *Dispatcher) known(vin string) *state.State {
	own := state.NewState(state.StateOptions{})
	own.SetShift(d.state.Shift())
	if data := d.state.Export(vin); data != nil {
		_ = own.Load(vin, data) //nolint:errcheck // just exported
	}
	return own
}

package sink

import (
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/rules/lang"
	"cellgate/rules/state"
)

// RulesHash is the hash of the rule set that ApplyRules made govern last; "" before the first.
func (d *Dispatcher) RulesHash() string {
	d.applyMu.Lock()
	defer d.applyMu.Unlock()
	return d.applied
}

// RulesSource is the source of the rule set of RulesHash; nil when there is none.
func (d *Dispatcher) RulesSource() (*lang.Source, error) {
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

// Overdue is for how long rules could have sent something without a message that they have not.
func (d *Dispatcher) Overdue() time.Duration { return d.ticker.overdue() }

// Ledger is the account of every sink, each exact at one moment.
func (d *Dispatcher) Ledger() []SinkLedger {
	out := make([]SinkLedger, len(d.pipelines))
	for i, p := range d.pipelines {
		out[i] = p.ledger()
		out[i].OldestSeconds = d.lag(p).Age.Seconds()
	}
	return out
}

// Lag tells how far each sink is behind.
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

// Parked lists the destinations of sinks that take no messages, and what waits for them.
func (d *Dispatcher) Parked() []Parked { return d.env.lot.parked() }

// stuckLocked is for how long the cursor has been seen where it is while something was pending. No record is younger,
// whatever the wall clock showed when it was received: it may have been ahead.
func (p *pipeline) stuckLocked(cursor uint64, now time.Time) time.Duration {
	if p.stuckAt != cursor || p.stuckSince.IsZero() {
		p.stuckAt, p.stuckSince = cursor, now
	}
	return now.Sub(p.stuckSince)
}

// Health is the state of the sinks and of the dispatcher itself. A sink that has something pending for longer than the alarm
// allows is not well, whatever it says of itself.
func (d *Dispatcher) Health() []remote.Health {
	d.troubleMu.Lock()
	out := []remote.Health{d.trouble}
	d.troubleMu.Unlock()
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
	if h, any := d.env.lot.health(); any {
		out = append(out, h)
	}
	return slices.Clip(out)
}

// lagging adds to the state of a sink what waits for it too long.
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

// Known is what the rules' operators remember of a VIN at this moment, by itself.
func (d *Dispatcher) Known(vin string) *state.State {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	return d.known(vin)
}

// known is Known at a boundary of the evaluator's.
func (d *Dispatcher) known(vin string) *state.State {
	own := state.NewState(state.StateOptions{})
	own.SetShift(d.state.Shift())
	if data := d.state.Export(vin); data != nil {
		_ = own.Load(vin, data) //nolint:errcheck // just exported
	}
	return own
}

package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
)

// limiter puts into the journal that a rule has too many errors: what is evaluated behind that record sends nothing for the rule,
// in every replay. It also tells of rules that are held.
type limiter struct {
	journal Journal
	retry   time.Duration
	wake    chan struct{}

	mu    sync.Mutex
	asked []message.Limit // to be appended: at most one for each rule
	rules []LimitedRule
}

// LimitedRule is a rule with a limit.
type LimitedRule struct {
	Rule  string
	Limit string
	// Held is not nil while the rule sends nothing.
	Held *engine.Held
}

func newLimiter(o *Options) *limiter {
	return &limiter{journal: o.Journal, retry: o.TickInterval, wake: make(chan struct{}, 1)}
}

// ask has a limit put into the journal.
func (l *limiter) ask(is message.Limit) {
	l.mu.Lock()
	l.asked = append(l.asked, is)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *limiter) note(rules []LimitedRule) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = rules
}

// run appends what is asked for until ctx ends. What the journal does not take now is tried again.
func (l *limiter) run(ctx context.Context) {
	for ctx.Err() == nil {
		if l.next(ctx) {
			continue
		}
		select {
		case <-l.wake:
		case <-time.After(l.retry):
		case <-ctx.Done():
		}
	}
}

// next appends one, and reports whether there was one and it is in the journal.
func (l *limiter) next(ctx context.Context) bool {
	l.mu.Lock()
	if len(l.asked) == 0 {
		l.mu.Unlock()
		return false
	}
	is := l.asked[0]
	l.mu.Unlock()
	if l.journal.WaitRoom(ctx) != nil {
		return false
	}
	if _, err := l.journal.Append([]message.Record{is.Record()}, nil); err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = l.asked[1:]
	return true
}

// limit applies a record of the journal that holds or lifts a rule.
func (d *Dispatcher) limit(rec *message.Record) {
	is, changed, err := d.limits.Apply(rec)
	switch {
	case err != nil:
		d.o.Log.Error("limit of a rule cannot be read and is ignored", "seq", rec.Seq, "err", err)
	case !changed:
	case is.Lifted:
		d.o.Log.Info("rule sends again: its limit was lifted", "rule", is.Rule, "seq", rec.Seq)
	default:
		d.o.Metrics.limited.Inc()
		d.o.Log.Warn("rule stopped sending: too many of its messages are errors; fix it, or lift the limit",
			"rule", is.Rule, "errors", is.Errors, "messages", is.Messages, "seq", rec.Seq)
	}
	d.noteLimits()
}

// noteLimits tells readers what is held.
func (d *Dispatcher) noteLimits() {
	var rules []LimitedRule
	if d.current.set != nil {
		limits := map[string]string{}
		for _, r := range d.current.set.rules() {
			if r.Limit != nil {
				limits[r.Info.ID] = r.Limit.String()
			}
		}
		for _, s := range d.limits.States() {
			rules = append(rules, LimitedRule{Rule: s.Rule, Limit: limits[s.Rule], Held: s.Held})
		}
	}
	d.limiter.note(rules)
}

// Limited tells of the rules with a limit.
func (d *Dispatcher) Limited() []LimitedRule {
	d.limiter.mu.Lock()
	defer d.limiter.mu.Unlock()
	return d.limiter.rules
}

// ErrNotHeld is the error of Lift for a rule that is not held.
var ErrNotHeld = errors.New("the rule is not held by its limit")

// Lift has a rule that is held by its limit send again. It returns when that is durable and evaluation has come to it, or ctx ends.
func (d *Dispatcher) Lift(ctx context.Context, rule string) error {
	d.evalMu.Lock()
	var version string
	for _, s := range d.limits.States() {
		if s.Rule == rule && s.Held != nil {
			version = s.Version
		}
	}
	d.evalMu.Unlock()
	if version == "" {
		return ErrNotHeld
	}
	seq, err := d.o.Journal.Append([]message.Record{message.Limit{Rule: rule, Version: version, Lifted: true}.Record()}, nil)
	if err == nil {
		err = d.o.Journal.WaitDurable(ctx, seq)
	}
	if err != nil {
		return fmt.Errorf("lift the limit of rule %s: %w", rule, err)
	}
	for d.Position() < seq && ctx.Err() == nil {
		sleep(ctx, 5*time.Millisecond)
	}
	return nil
}

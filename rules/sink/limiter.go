package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/engine"
)

// limiter appends limits to the journal: after that record a rule with too many errors sends nothing, in every replay.
// It also lists the held rules.
type limiter struct {
	journal Journal
	retry   time.Duration
	wake    chan struct{}

	mu    sync.Mutex
	asked []message.Limit // to be appended: at most one per rule
	rules []LimitedRule
}

// LimitedRule is a rule with a limit.
type LimitedRule struct {
	Rule  string
	Limit string
	// Held is set while the rule sends nothing.
	Held *engine.Held
}

func newLimiter(o *Options) *limiter {
	return &limiter{journal: o.Journal, retry: o.TickInterval, wake: make(chan struct{}, 1)}
}

// ask queues a limit for the journal.
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

// run appends queued limits until ctx ends, and retries those that the journal does not take.
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

// next appends one limit, and reports whether it did.
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

// limit applies a record that holds a rule or lifts its limit.
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

// noteLimits publishes the held rules to readers.
func (d *Dispatcher) noteLimits() {
	var rules []LimitedRule
	if d.current.set != nil {
		limits := map[string]string{}
		for _, r := range d.current.set.Compiled {
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

// Limited returns the rules with a limit.
func (d *Dispatcher) Limited() []LimitedRule {
	d.limiter.mu.Lock()
	defer d.limiter.mu.Unlock()
	return d.limiter.rules
}

// ErrNotHeld means that the rule to lift is not held.
var ErrNotHeld = errors.New("the rule is not held by its limit")

// Lift makes a held rule send again. It returns when that is durable and evaluated, or ctx ends.
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
		remote.Pause(ctx, 5*time.Millisecond)
	}
	return nil
}

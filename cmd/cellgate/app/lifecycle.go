package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// step is the stop of one part.
type step struct {
	name  string
	limit time.Duration
	stop  func(context.Context) error
}

// lifecycle has the stops of what has been constructed. They run once, in reverse order, each with its own deadline
// within the caller's. An error does not keep the others from running.
type lifecycle struct {
	log *slog.Logger

	mu    sync.Mutex
	steps []step
}

// onStop registers a stop. Call it on the line after the construction.
func (l *lifecycle) onStop(name string, limit time.Duration, stop func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = append(l.steps, step{name, limit, stop})
}

// stop runs the steps. It joins their errors, each with its name.
func (l *lifecycle) stop(ctx context.Context) error {
	l.mu.Lock()
	steps := l.steps
	l.steps = nil
	l.mu.Unlock()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if err := l.one(ctx, steps[i]); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", steps[i].name, err))
		}
	}
	return errors.Join(errs...)
}

// patient wraps the stop of a part that keeps unfinished work on disk: a timeout is logged and is not an error.
func (l *lifecycle) patient(keeps string, stop func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := stop(ctx)
		rest := withoutDeadline(err)
		if err != nil && rest == nil {
			l.log.Warn("stopped before everything was sent; the rest is kept", slog.String("kept", keeps))
		}
		return rest
	}
}

// withoutDeadline removes from err the errors that only report a timeout.
func withoutDeadline(err error) error {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		var rest []error
		for _, e := range several.Unwrap() {
			rest = append(rest, withoutDeadline(e))
		}
		return errors.Join(rest...)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (l *lifecycle) one(ctx context.Context, s step) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	err := s.stop(ctx)
	l.log.Debug("stopped", slog.String("part", s.name), slog.Duration("took", time.Since(begin)), slog.Any("err", err))
	return err
}

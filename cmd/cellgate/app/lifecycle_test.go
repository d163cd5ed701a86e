package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestOnlyTheDeadlineIsForgiven(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	late := fmt.Errorf("close sink kafka: %w", context.DeadlineExceeded)
	for _, tc := range []struct{ err, want error }{
		{nil, nil},
		{late, nil},
		{errors.Join(late, late), nil},
		{broken, broken},
		{errors.Join(late, broken), broken},
		{fmt.Errorf("stop: %w", errors.Join(errors.Join(late), broken)), broken},
	} {
		if got := withoutDeadline(tc.err); !errors.Is(got, tc.want) || (tc.want == nil) != (got == nil) || errors.Is(got, context.DeadlineExceeded) {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestStopsRunInReverseOrderAndAllOfThem(t *testing.T) {
	t.Parallel()
	l := &lifecycle{log: slog.New(slog.DiscardHandler)}
	var order []string
	broken := errors.New("broken")
	for _, name := range []string{"first", "second", "third"} {
		l.onStop(name, time.Minute, func(ctx context.Context) error {
			if _, limited := ctx.Deadline(); !limited {
				t.Errorf("%s has no deadline", name)
			}
			order = append(order, name)
			if name == "second" {
				return broken
			}
			return nil
		})
	}
	err := l.stop(context.Background())
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "stop second") {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(order, " "); got != "third second first" {
		t.Errorf("order %s", got)
	}
	if err := l.stop(context.Background()); err != nil || len(order) != 3 {
		t.Errorf("a second stop did something: %v, %v", err, order)
	}
}

package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

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

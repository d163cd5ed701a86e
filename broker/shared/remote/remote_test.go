package remote_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/test/check"
)

// TestHealthTracker checks that the store is healthy only while no part fails, and that each change is logged once.
func TestHealthTracker(t *testing.T) {
	t.Parallel()
	log := &check.Log{}
	h := remote.NewHealthTracker(slog.New(slog.NewTextHandler(log, nil)), "kafka", "records are kept")
	began := h.Get()
	if !began.OK || began.Reason != "" || began.Since.IsZero() {
		t.Fatalf("at first %+v, want well", began)
	}
	steps := []struct {
		who     string
		err     error
		changed bool
		reason  string
	}{
		{"a", nil, false, ""},
		{"a", errors.New("refused"), true, "refused"},
		{"a", errors.New("timed out"), false, "timed out"},
		{"b", errors.New("away"), false, "away"},
		{"b", nil, false, "timed out"},
		{"c", nil, false, "timed out"},
		{"a", nil, true, ""},
	}
	for i, s := range steps {
		before := log.String()
		h.Set(s.who, s.err)
		if told := log.String() != before; told != s.changed {
			t.Errorf("step %d: told %t, want %t: %s", i, told, s.changed, log.String())
		}
		if got := h.Get(); got.Reason != s.reason || got.OK != (s.reason == "") {
			t.Errorf("step %d: %+v, want the reason %q", i, got, s.reason)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	t.Parallel()
	const least, most = 100 * time.Millisecond, 5 * time.Second
	for n, want := range map[int]time.Duration{0: least, 1: least, 2: 2 * least, 4: 8 * least, 7: most, 64: most, 1 << 30: most} {
		for range 100 {
			if d := remote.Backoff(n, least, most); d < want/2 || d > want {
				t.Fatalf("try %d: pause %v, want %v to %v", n, d, want/2, want)
			}
		}
	}
}

// TestFinishCutsOff checks that Finish neither returns before the goroutines have ended nor waits for them beyond its
// context.
func TestFinishCutsOff(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		cut, ended := make(chan struct{}), false
		wg.Go(func() {
			if late {
				cancel()
				<-cut
			}
			ended = true
		})
		err := remote.Finish(ctx, &wg, func() { close(cut) })
		if !ended || errors.Is(err, context.Canceled) != late {
			t.Errorf("late %t: ended %t, error %v", late, ended, err)
		}
	}
}

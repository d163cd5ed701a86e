package app

import (
	"context"
	"errors"
	"testing"

	"cellgate/test/check"
)

// TestOneOwnerLeavesAPlace: an owner has one call in work, however many it makes; another owner gets a place.
func TestOneOwnerLeavesAPlace(t *testing.T) {
	t.Parallel()
	p := newPlaces(2)
	mine, err := p.enter(t.Context(), "a")
	check.OK(t, err)
	entered := make(chan func())
	for range 20 {
		go func() {
			leave, err := p.enter(t.Context(), "a")
			if err != nil {
				t.Error(err)
			}
			entered <- leave
		}()
	}
	others, err := p.enter(t.Context(), "b")
	check.OK(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.enter(gone, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone: %v", err)
	}
	others()
	check.Eventually(t, "all of a's calls wait", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.queues["a"].calls == 21
	})
	if n := len(p.all); n != 1 {
		t.Errorf("%d places are taken by one owner", n)
	}
	mine()
	for range 20 {
		(<-entered)()
	}
	if len(p.all) != 0 || len(p.queues) != 0 {
		t.Errorf("%d places, %d queues are left", len(p.all), len(p.queues))
	}
}

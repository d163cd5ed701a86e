package remote

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Backoff returns the pause before try n (from 1): doubling from least to most, half of it jitter, so that clients do
// not retry in step.
func Backoff(n int, least, most time.Duration) time.Duration {
	d := least << min(max(n-1, 0), 16)
	if d <= 0 || d > most {
		d = most
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter
}

// Pause waits for d. It returns false if ctx ends first.
func Pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Finish waits for the goroutines counted in wg. If ctx ends first, it calls cutOff, which must make them stop, waits
// for them, and returns ctx's error. cutOff is called in any case.
func Finish(ctx context.Context, wg *sync.WaitGroup, cutOff func()) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	cutOff()
	<-done
	return err
}

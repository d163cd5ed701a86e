package session

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// After a clean start the client's presence events stay in order, even if a goroutine still has to report the old
// session's end.
func TestPresenceOrderOverCleanStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var mu sync.Mutex
	var log []bool
	running, slow := make(chan struct{}), make(chan struct{})
	e.m.OnPresence(func(p Presence) {
		mu.Lock()
		defer mu.Unlock()
		if !p.Ready {
			log = append(log, p.Connected)
		}
	})
	wait := sync.OnceFunc(func() {
		close(running)
		<-slow
	})
	e.m.OnReady(func(string) { wait() })
	c, _ := e.attach("V", vehicle, volatile)
	var subscribing sync.WaitGroup
	subscribing.Go(func() { c.s.Subscribe([]Subscription{sub("v1/V/cmd/#", 1)}, 0, func([]byte) {}) })
	<-running
	time.AfterFunc(100*time.Millisecond, func() { close(slow) })
	c.detach(false)
	e.attach("V", vehicle, volatile)
	subscribing.Wait()
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(log, []bool{true, false, true}) {
		t.Errorf("connected: %v", log)
	}
}

// Ready is reported once per connection, when commands can be sent: after a SUBSCRIBE, or at once if the resumed
// session has the subscription.
func TestReadyIsReportedOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var mu sync.Mutex
	var log []string
	e.m.OnPresence(func(p Presence) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case p.Ready:
			log = append(log, fmt.Sprint("ready ", p.Epoch))
		case p.Connected:
			log = append(log, fmt.Sprint("connected ", p.Epoch))
		default:
			log = append(log, fmt.Sprint("disconnected ", p.Epoch))
		}
	})
	c, _ := e.attach("V", vehicle)
	for range 2 {
		c.subscribe(sub("v1/V/cmd/#", 1))
	}
	c.detach(false)
	e.attach("V", vehicle)
	mu.Lock()
	defer mu.Unlock()
	want := []string{"connected 1", "ready 1", "disconnected 1", "connected 2", "ready 2"}
	if !slices.Equal(log, want) {
		t.Errorf("%q, want %q", log, want)
	}
}

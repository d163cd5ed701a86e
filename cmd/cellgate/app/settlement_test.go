package app

import (
	"context"
	"testing"
	"time"
)

type mark chan uint64

func (m mark) Settled(at uint64) { m <- at }
func (m mark) Gone() bool        { return false }

// ended is the waiter of a connection that is no more.
type ended struct{ mark }

func (ended) Gone() bool { return true }

// Vehicles that reconnect while Kafka is away leave waiters behind, each with its connection.
func TestSettlementForgetsConnectionsThatEnded(t *testing.T) {
	t.Parallel()
	s := newSettlement("kafka")
	t.Cleanup(func() { _ = s.close(context.Background()) })
	alive := make([]mark, 3*sweepAbove/2)
	for i := range alive {
		alive[i] = make(mark, 1)
		s.Notify(uint64(1+i), alive[i]) //nolint:gosec // small
		for range 20 {
			s.Notify(1<<40, ended{})
		}
	}
	s.mu.Lock()
	held := len(s.waiting)
	s.mu.Unlock()
	if most := 2*len(alive) + 1; held > most {
		t.Errorf("%d waiters are held for %d connections, want at most %d", held, len(alive), most)
	}
	s.watch("kafka")(uint64(len(alive)))
	for i := range alive {
		<-alive[i]
	}
}

func TestSettlementWaitsForEverySink(t *testing.T) {
	t.Parallel()
	s := newSettlement("kafka", "central")
	kafka, central := s.watch("kafka"), s.watch("central")
	five, seven := make(mark, 1), make(mark, 1)
	s.Notify(7, seven)
	s.Notify(5, five)
	kafka(9)
	select {
	case at := <-five:
		t.Fatalf("told %d while central is at 0", at)
	case <-time.After(20 * time.Millisecond):
	}
	central(6)
	if at := <-five; at != 6 {
		t.Errorf("mark %d, want the lowest cursor 6", at)
	}
	central(8)
	if at := <-seven; at != 8 {
		t.Errorf("mark %d, want 8", at)
	}
	late := make(mark, 1)
	s.Notify(3, late)
	if at := <-late; at != 8 {
		t.Errorf("a waiter behind the mark is told %d, want 8", at)
	}
	if err := s.close(context.Background()); err != nil {
		t.Error(err)
	}
}

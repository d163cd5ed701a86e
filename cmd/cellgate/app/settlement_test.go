package app

import (
	"context"
	"math/rand/v2"
	"testing"

	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
)

// asking is a waiter that is notified when it should ask again.
type asking chan struct{}

func (a asking) Settled()   { a <- struct{}{} }
func (a asking) Gone() bool { return false }

// ended is the waiter of a connection that is no more.
type ended struct{}

func (ended) Settled()   {}
func (ended) Gone() bool { return true }

// settling returns a settlement of a Kafka and a central sink, and the watchers that they report to. Redis is not
// watched.
func settling(t *testing.T) (s *settlement, kafka, central sink.Watcher) {
	t.Helper()
	sinks := make([]sink.Binding, 3)
	for i, kind := range []op.SinkKind{op.SinkKafka, op.SinkRedis, op.SinkCentral} {
		sinks[i].Sink = sinktest.NewMemory(kind)
	}
	s = newSettlement(sinks)
	t.Cleanup(func() {
		if err := s.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if sinks[1].Watch != nil {
		t.Error("acknowledgements wait for Redis")
	}
	return s, sinks[0].Watch, sinks[2].Watch
}

// Vehicles that reconnect while Kafka is away, or does not take their messages, leave waiters, each with its connection.
func TestSettlementForgetsConnectionsThatEnded(t *testing.T) {
	t.Parallel()
	s, kafka, central := settling(t)
	kafka.Begun(1)
	kafka.Reached(1)
	central.Reached(1)
	alive := make([]asking, 3*sweepAbove/2)
	for i := range alive {
		alive[i] = make(asking, 1)
		s.Settled(uint64(1+i%2), alive[i]) //nolint:gosec // small
		for range 10 {
			s.Settled(1, ended{})
			s.Settled(1<<40, ended{})
		}
	}
	s.mu.Lock()
	held := len(s.ahead)
	for _, all := range s.blocked {
		held += len(all)
	}
	if held != s.held {
		t.Errorf("%d waiters are held, and %d counted", held, s.held)
	}
	s.mu.Unlock()
	if most := 2*len(alive) + 1; held > most {
		t.Errorf("%d waiters are held for %d connections, want at most %d", held, len(alive), most)
	}
	kafka.Done(1)
	kafka.Reached(2)
	central.Reached(2)
	for i := range alive {
		<-alive[i]
	}
}

func TestSettlementWaitsForEverySink(t *testing.T) {
	t.Parallel()
	s, kafka, central := settling(t)
	five, seven := make(asking, 1), make(asking, 1)
	settled := func(seq uint64, a asking, want bool) {
		t.Helper()
		if s.Settled(seq, a) != want {
			t.Fatalf("%d has settled: %v", seq, !want)
		}
	}
	settled(7, seven, false)
	settled(5, five, false)
	kafka.Reached(9)
	settled(5, five, false) // while central is at 0
	central.Reached(6)
	<-five
	<-five
	settled(5, nil, true)
	settled(6, nil, true)
	central.Reached(8)
	<-seven
	settled(7, nil, true)
	settled(9, seven, false)
}

// A record in flight at one of the sinks waits, whatever happens to those around it.
func TestSettlementOfOneRecord(t *testing.T) {
	t.Parallel()
	s, kafka, central := settling(t)
	early, late := make(asking, 1), make(asking, 2) // nothing may wait for a reader: the order among them is open
	if s.Settled(5, early) {
		t.Fatal("settled before anybody has seen it")
	}
	for _, sink := range []sink.Watcher{kafka, central} {
		for seq := uint64(3); seq < 8; seq++ {
			sink.Begun(seq)
			sink.Begun(seq) // as after a restart
		}
		sink.Reached(9)
		for _, seq := range []uint64{4, 6, 2} {
			sink.Done(seq)
		}
	}
	for seq, want := range map[uint64]bool{2: true, 3: false, 4: true, 6: true, 7: false, 8: true} {
		if s.Settled(seq, make(asking, 1)) != want {
			t.Errorf("%d has settled: %v", seq, !want)
		}
	}
	if s.Settled(5, late) {
		t.Fatal("settled while it is under way")
	}
	kafka.Done(5)
	if s.Settled(5, late) {
		t.Fatal("settled while it is under way at the central sink")
	}
	central.Done(5)
	<-early
	<-late
	<-late
	if !s.Settled(5, nil) {
		t.Error("not settled")
	}
}

func TestSequences(t *testing.T) {
	t.Parallel()
	s, model := sequences{}, map[uint64]bool{}
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's
	for range 20_000 {
		seq := rnd.Uint64N(3 * pageSize)
		if rnd.IntN(8) == 0 {
			seq += 1 << 40
		}
		if s.has(seq) != model[seq] {
			t.Fatalf("%d: %v, want %v", seq, s.has(seq), model[seq])
		}
		if model[seq] = rnd.IntN(3) > 0; model[seq] {
			s.add(seq)
		} else {
			s.remove(seq)
		}
	}
	for seq := range model {
		s.remove(seq)
	}
	if len(s) > 0 {
		t.Errorf("%d pages of nothing", len(s))
	}
}

package syncer

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// division assigns a worker all partitions or none.
type division struct{ none atomic.Bool }

func (d *division) of(string, int) bool { return !d.none.Load() }

// hand takes all partitions from the worker and returns them.
func (d *division) hand(t *testing.T, s *Syncer) {
	t.Helper()
	had := s.has()
	d.none.Store(true)
	await(t, func() bool { return s.has() == 0 })
	d.none.Store(false)
	await(t, func() bool { return s.has() == had })
}

// has returns the number of the worker's partitions.
func (s *Syncer) has() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.parts {
		if f.isAssigned() {
			n++
		}
	}
	return n
}

// lagging returns the lag of all lanes; negative if unknown.
func (s *Syncer) lagging() (n int64) {
	for _, l := range s.Lanes() {
		if !l.Known {
			return -1
		}
		n += l.Messages
	}
	return n
}

// underWay returns the number of records read and not settled.
func (s *Syncer) underWay() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.parts {
		f.mu.Lock()
		n += f.count
		f.mu.Unlock()
	}
	return n
}

// Records in flight to the centre stay in flight when the partition goes and comes back: they are neither read nor sent
// again, however often that happens while the centre is away.
func TestReturningPartitionRepeatsNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	centre.Store(true)
	d := &division{}
	s := p.dividing(d.of)
	p.put("central.p1", 0, 200)
	await(t, func() bool { return s.lagging() == 200 })
	for range 2 {
		d.hand(t, s)
		await(t, func() bool { return s.lagging() == 200 })
	}
	p.put("central.p1", 40, 100)
	await(t, func() bool { return s.lagging() == 300 })
	centre.Store(false)
	if n := len(got(t, p.central, "fleet.central.p1", 300)); n != 300 {
		t.Errorf("%d records of 300", n)
	}
	await(t, func() bool { return s.lagging() == 0 })
	p.stop(s)
	p.startsClean("central.p1", 60, 50, 350)
}

// While the cell's Kafka is away the lag is unchanged.
func TestLagStaysWhileTheCellIsAway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre, cell := fakekafka.Away(p.central, kmsg.Produce), fakekafka.Away(p.cell)
	centre.Store(true)
	s := p.start()
	p.put("central.p1", 0, 100)
	await(t, func() bool { return s.lagging() == 100 })
	cell.Store(true)
	await(t, func() bool { return !s.consumer.Health().OK })
	if n := s.lagging(); n != 100 {
		t.Errorf("a lag of %d, want 100", n)
	}
	cell.Store(false)
	centre.Store(false)
	got(t, p.central, "fleet.central.p1", 100)
	await(t, func() bool { return s.lagging() == 0 })
}

// A partition that moved to another gateway no longer counts in the lag.
func TestLagGoesToWhoHasThePartition(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	centre.Store(true)
	var halved atomic.Bool
	s := p.dividing(func(_ string, id int) bool { return id == 0 || !halved.Load() })
	for _, topic := range kafkaclient.OutboxTopics() {
		p.put(topic, 0, 100)
	}
	await(t, func() bool { return s.lagging() == 300 })
	halved.Store(true)
	other := p.dividing(func(_ string, id int) bool { return id == 1 })
	await(t, func() bool { return other.lagging() > 0 && s.lagging() >= 0 && other.lagging()+s.lagging() == 300 })
	centre.Store(false)
	await(t, func() bool { return other.lagging() == 0 && s.lagging() == 0 })
}

// Records forwarded but not committed, because the cell's Kafka went away, are not sent again.
func TestALostCommitRepeatsNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	lost := fakekafka.Away(p.cell, kmsg.OffsetCommit)
	lost.Store(true)
	d := &division{}
	s := p.dividing(d.of)
	p.put("central.p0", 0, 200)
	got(t, p.central, "fleet.central.p0", 200)
	d.hand(t, s)
	lost.Store(false)
	p.put("central.p0", 40, 100)
	if n := len(got(t, p.central, "fleet.central.p0", 300)); n != 300 {
		t.Errorf("%d records of 300", n)
	}
	p.stop(s)
	p.startsClean("central.p0", 60, 50, 350)
}

// Records in flight still arrive when their topic is recreated, and the new one is read from its first record once an
// operator skips the gap.
func TestTopicRecreatedWhileItsRecordsAreUnderWay(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	s := p.start()
	p.put("central.p2", 0, 100)
	got(t, p.central, "fleet.central.p2", 100)
	centre.Store(true)
	p.put("central.p2", 20, 100)
	await(t, func() bool { return s.lagging() == 100 })
	p.recreate("central.p2")
	p.put("central.p2", 40, 50)
	s.awaitGaps(t, "p2", 2)
	centre.Store(false)
	got(t, p.central, "fleet.central.p2", 200)
	s.skipAll(t, "p2")
	got(t, p.central, "fleet.central.p2", 250)
	await(t, func() bool { return s.lagging() == 0 })
	p.stop(s)
	p.startsClean("central.p2", 50, 50, 300)
}

// With enough time Stop waits for records in flight and commits them.
func TestStopCommitsWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	centre.Store(true)
	s := p.start()
	p.put("central.p0", 0, 100)
	await(t, func() bool { return s.lagging() == 100 })
	time.AfterFunc(handoverGrace+500*time.Millisecond, func() { centre.Store(false) })
	check.OK(t, s.Stop(t.Context()))
	p.startsClean("central.p0", 20, 50, 150)
}

// Stop returns in time even if the cell's Kafka accepts connections and does not answer.
func TestStopDoesNotWaitForASilentCell(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check.OK(t, err)
	defer func() { _ = l.Close() }()
	asked := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(asked)
				return
			}
			asked <- c
		}
	}()
	s := p.start(func(o *Options) {
		o.Cell.Brokers, o.Cell.RequestTimeout = []string{l.Addr().String()}, time.Minute
	})
	first := <-asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stopped := make(chan struct{})
	go func() { _ = s.Stop(ctx); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Error("not stopped a minute after its time")
	}
	_ = first.Close()
	_ = l.Close()
	for c := range asked {
		_ = c.Close()
	}
}

package syncer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// admin runs do with a client of the cell's Kafka.
func (p *pair) admin(do func(*kadm.Client) error) {
	p.t.Helper()
	cl := fakekafka.Client(p.t, p.cell)
	check.OK(p.t, do(kadm.NewClient(cl)))
}

// stopFetching makes the cell refuse all fetches, and returns once no fetch of the topic's partitions is pending.
func (p *pair) stopFetching(topic string, partitions int) (resume func()) {
	p.t.Helper()
	var mu sync.Mutex
	refused, over := map[int32]bool{}, false
	p.cell.ControlKey(kmsg.Fetch.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return nil, nil, false
		}
		p.cell.KeepControl()
		if t := r.(*kmsg.FetchRequest).Topics[0]; t.Topic == topic {
			refused[t.Partitions[0].Partition] = true
		}
		return nil, errors.New("away"), true
	})
	await(p.t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(refused) == partitions
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// recreate deletes a topic and recreates it.
func (p *pair) recreate(topic string) {
	p.t.Helper()
	p.admin(func(c *kadm.Client) error {
		if _, err := c.DeleteTopic(p.t.Context(), topic); err != nil {
			return err
		}
		_, err := c.CreateTopic(p.t.Context(), 2, 1, nil, topic)
		return err
	})
}

func (s *Syncer) awaitGaps(t *testing.T, lane string, n int) []Gap {
	t.Helper()
	await(t, func() bool { return len(s.Gaps(lane)) == n })
	return s.Gaps(lane)
}

// skipAll skips a lane's gaps, as an operator does, and returns the number of lost records.
func (s *Syncer) skipAll(t *testing.T, lane string) (n int64) {
	t.Helper()
	for _, g := range s.Gaps(lane) {
		ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
		defer cancel()
		done, err := s.Skip(ctx, &g)
		check.OK(t, err)
		lost, _ := done.Records()
		n += lost
	}
	return n
}

func (s *Syncer) degraded(name string) string {
	for _, h := range s.Health() {
		if h.Name == name && !h.OK {
			return h.Reason
		}
	}
	return ""
}

// Records that retention removed unread stop their lane, also over restarts, until an operator skips the gap. The other
// lanes continue.
func TestGapStopsItsLaneUntilAnOperatorSkipsIt(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	s := p.start()
	p.put("central.p0", 0, 100)
	got(t, p.central, "fleet.central.p0", 100)
	p.stop(s)
	p.put("central.p0", 20, 1000)
	left := fakekafka.Expire(p.t, p.cell, "central.p0", 300)
	for run := range 2 {
		s = p.start()
		gaps := s.awaitGaps(t, "p0", 2)
		p.put("central.p1", 20*run, 100)
		got(t, p.central, "fleet.central.p1", 100*(run+1))
		if n := fakekafka.Count(p.t, p.central, "fleet.central.p0"); n != 100 {
			t.Fatalf("%d records of the lane that has stopped are at the centre, want 100", n)
		}
		why := s.degraded("sync-p0")
		for _, g := range gaps {
			if want := fmt.Sprintf("central.p0/%d: records %d to 299 are gone", g.Partition, g.From); !strings.Contains(why, want) || g.To != 300 || g.From == 0 {
				t.Errorf("gap %+v, reason %q without %q", g, why, want)
			}
		}
		await(t, func() bool { l := s.Lanes(); return l[0].Known && l[0].Messages == int64(left) && l[0].Age > time.Hour })
		if s.degraded("sync-p1") != "" || len(s.Gaps("")) != 2 {
			t.Errorf("gaps %+v", s.Gaps(""))
		}
		if run == 0 {
			p.stop(s)
		}
	}
	if n := s.skipAll(t, "p0"); n != 1000-int64(left) {
		t.Errorf("%d records skipped, want %d", n, 1000-left)
	}
	await(t, func() bool { return fakekafka.Count(p.t, p.central, "fleet.central.p0") == int64(100+left) })
	await(t, func() bool { return s.degraded("sync-p0") == "" && s.lagging() == 0 })
	p.stop(s)
	s = p.start()
	p.put("central.p0", 220, 10)
	await(t, func() bool { return fakekafka.Count(p.t, p.central, "fleet.central.p0") == int64(110+left) })
	if g := s.Gaps(""); len(g) > 0 {
		t.Errorf("after the skip: %+v", g)
	}
}

// A confirmed skip holds even if the worker is killed at once: the group has committed it.
func TestSkipIsCommittedWhenItIsAnswered(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.put("central.p2", 0, 200)
	left := fakekafka.Expire(p.t, p.cell, "central.p2", 50)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	centre.Store(true)
	s := p.start(func(o *Options) { o.CommitInterval = time.Hour })
	s.awaitGaps(t, "p2", 2)
	lost := fakekafka.Away(p.cell, kmsg.OffsetCommit)
	lost.Store(true)
	g := s.Gaps("p2")[0]
	if _, err := s.Skip(t.Context(), &g); err == nil {
		t.Error("skipped, though the group could not be told")
	}
	s.awaitGaps(t, "p2", 2)
	lost.Store(false)
	s.skipAll(t, "p2")
	if _, err := s.Skip(t.Context(), &g); !errors.Is(err, ErrNoGap) {
		t.Errorf("a second skip: %v", err)
	}
	lost.Store(true) // no more commits, as after a kill
	p.cut(s)
	lost.Store(false)
	centre.Store(false)
	s = p.start()
	await(t, func() bool {
		return s.lagging() == 0 && fakekafka.Count(p.t, p.central, "fleet.central.p2") >= int64(left)
	}) // records in flight may come twice
	if g := s.Gaps(""); len(g) > 0 {
		t.Errorf("after the skip: %+v", g)
	}
}

// A gap moves with its partition: its new owner stops there, and the previous one no longer reports it.
func TestGapGoesWithItsPartition(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.put("central.p0", 0, 400)
	fakekafka.Expire(p.t, p.cell, "central.p0", 100)
	var first, second atomic.Bool // the owner of partition 1
	first.Store(true)
	a := p.dividing(func(_ string, id int) bool { return id == 0 || first.Load() })
	a.awaitGaps(t, "p0", 2)
	b := p.dividing(func(_ string, id int) bool { return id == 1 && second.Load() })
	first.Store(false)
	a.awaitGaps(t, "p0", 1)
	second.Store(true)
	b.awaitGaps(t, "p0", 1)
	if n := fakekafka.Count(p.t, p.central, "fleet.central.p0"); n != 0 {
		t.Errorf("%d records are at the centre", n)
	}
}

// A skip does not give up records in flight when their partition loses later ones.
func TestSkipWaitsForWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	centre.Store(true)
	d := &division{}
	s := p.dividing(d.of)
	p.put("central.p0", 0, 100)
	await(t, func() bool { return s.underWay() == 100 }) // all are read: the rest is about to be removed
	resume := p.stopFetching("central.p0", 2)
	p.put("central.p0", 20, 300)
	left := fakekafka.Expire(p.t, p.cell, "central.p0", 150)
	resume()
	gaps := s.awaitGaps(t, "p0", 2)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Skip(ctx, &gaps[0]); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("skipped before what was under way: %v", err)
	}
	d.hand(t, s)
	s.awaitGaps(t, "p0", 2)
	centre.Store(false)
	s.skipAll(t, "p0")
	await(t, func() bool { return fakekafka.Count(p.t, p.central, "fleet.central.p0") == int64(100+left) })
}

// A recreated topic is recognised as another one, even if it has grown beyond the read position. After the skip
// it is read from its first record.
func TestRecreatedTopicStopsItsLane(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"shorter": 50, "longer": 700} {
		for _, running := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, running %v", name, running), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				s := p.start()
				p.put("central.p1", 0, 100)
				got(t, p.central, "fleet.central.p1", 100)
				await(t, func() bool { return s.committed() == 100 })
				if running {
					p.recreate("central.p1")
					p.put("central.p1", 20, n)
				} else {
					var old kadm.OffsetResponses
					p.admin(func(c *kadm.Client) (err error) {
						p.stop(s)
						old, err = c.FetchOffsets(p.t.Context(), "cellgate-sync")
						return err
					})
					p.recreate("central.p1")
					p.put("central.p1", 20, n)
					p.admin(func(c *kadm.Client) error { return c.CommitAllOffsets(p.t.Context(), "cellgate-sync", old.Offsets()) })
					s = p.start()
				}
				for _, g := range s.awaitGaps(t, "p1", 2) {
					if !g.Recreated || g.To != 0 {
						t.Errorf("%+v", g)
					}
				}
				before := fakekafka.Count(p.t, p.central, "fleet.central.p1") // read before it was noticed
				p.put("central.p1", 20+n/5, 500)                              // beyond the read position
				p.stop(s)
				s = p.start()
				s.awaitGaps(t, "p1", 2)
				if now := fakekafka.Count(p.t, p.central, "fleet.central.p1"); now != before {
					t.Errorf("%d records more at the centre while the lane stands", now-before)
				}
				s.skipAll(t, "p1")
				await(t, func() bool { return fakekafka.Count(p.t, p.central, "fleet.central.p1") == before+int64(n)+500 })
			})
		}
	}
}

// committed returns the sum of the worker's committed offsets.
func (s *Syncer) committed() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.parts {
		f.mu.Lock()
		n += max(0, f.commit)
		f.mu.Unlock()
	}
	return n
}

// The lag is unknown, not 0, until it is known; then it counts the records that the group has not committed.
func TestLagIsUnknownBeforeItIsKnown(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	s := p.start()
	p.put("central.p0", 0, 100)
	got(t, p.central, "fleet.central.p0", 100)
	p.stop(s)
	p.put("central.p0", 20, 500)
	all, centre := fakekafka.Away(p.cell), fakekafka.Away(p.central, kmsg.Produce)
	all.Store(true)
	centre.Store(true)
	reg := prometheus.NewRegistry()
	s = p.start(func(o *Options) { o.Metrics = NewMetrics(reg, false) })
	for _, l := range s.Lanes() {
		if l.Known {
			t.Errorf("%+v before anything is known", l)
		}
	}
	v := check.Series(t, reg)
	if known, there := v["sync_lag_known{lane=p0}"]; known != 0 || !there || !math.IsNaN(v["sync_lag_messages{lane=p0}"]) {
		t.Errorf("unknown lag %v", v)
	}
	all.Store(false)
	await(t, func() bool { l := s.Lanes(); return l[0].Known && l[1].Known })
	if l := s.Lanes(); l[0].Messages != 500 || l[0].Age < time.Hour || l[1].Messages != 0 {
		t.Errorf("lag %+v, want 500", l)
	}
	if v := check.Series(t, reg); v["sync_lag_messages{lane=p0}"] != 500 {
		t.Errorf("lag %v", v)
	}
	centre.Store(false)
	got(t, p.central, "fleet.central.p0", 600)
	await(t, func() bool { return s.lagging() == 0 })
}

// A lane that fetches nothing because the centre takes nothing still reports new records.
func TestLagGrowsWhileTheCentreIsAway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	centre := fakekafka.Away(p.central, kmsg.Produce)
	centre.Store(true)
	s := p.start()
	const many = 4000
	p.put("central.p2", 0, 3*many)
	await(t, func() bool { return s.lagging() == 3*many })
	p.put("central.p2", 3*many/5, 1000)
	await(t, func() bool { return s.lagging() == 3*many+1000 })
}

package syncer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// lane is one priority: this gateway's part of one outbox topic. It has its own producer, and so its own connections:
// no record of another lane is queued before it.
type lane struct {
	name     string
	priority int
	central  *kafkaclient.Producer
	memory   int          // bytes of all its partitions here
	share    atomic.Int64 // bytes of one of them
	once     once

	mu   sync.Mutex
	gaps map[partition]Gap // while there is one, the lane sends nothing
	// paused stops the lane too.
	paused  bool
	open    chan struct{}     // closed while it may send
	retries map[string]uint64 // by reason
	// passed counts what was read and forwarded.
	passed passed
}

// Gap is where a lane is stopped: a partition does not have the next record to forward.
type Gap struct {
	Centre    string
	Lane      string
	Topic     string
	Partition int
	From, To  int64 // the first missing record, and the first existing one
	// Recreated means that the partition was recreated or truncated: the loss is unknown.
	Recreated bool
	Since     time.Time
	Reason    string
}

// Records returns the number of missing records; false if unknown.
func (g *Gap) Records() (n int64, known bool) { return max(0, g.To-g.From), !g.Recreated }

// LaneNames returns the lanes by priority.
func LaneNames() [lanes]string { return [lanes]string{"p0", "p1", "p2"} }

// memoryShares returns the lanes' shares of the memory. Unused shares are not lent to other lanes.
func memoryShares() [lanes]float64 { return [lanes]float64{0.25, 0.5, 0.25} }

// minShare is the least memory of a partition: with very many partitions the sum exceeds the lane's memory.
const minShare = 64 << 10

// setPartitions divides the lane's memory among n partitions.
func (l *lane) setPartitions(n int) { l.share.Store(int64(max(minShare, l.memory/max(1, n)))) }

func (l *lane) shareOf() int { return int(l.share.Load()) }

func (s *Syncer) openLane(priority int) (*lane, error) {
	name := LaneNames()[priority]
	o := s.o.Central
	o.Log, o.Flow, o.InFlight = s.o.Log.With("lane", name), s.flow.Lane(priority), kafkaclient.MaxInFlight
	if s.o.ExactlyOnce {
		o.TransactionalID = fmt.Sprintf("%s-%s-%s", s.o.Group, s.o.CellID, name)
	}
	l := &lane{
		name: name, priority: priority, gaps: map[partition]Gap{}, open: make(chan struct{}), retries: map[string]uint64{},
		once: once{topics: map[string]*there{}}, memory: int(float64(s.o.Memory) * memoryShares()[priority]),
	}
	o.Retried = func(reason string) {
		s.o.Metrics.retries.WithLabelValues(s.o.Metrics.labels(s.o.Centre, name, reason)...).Inc()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.retries[reason]++
	}
	var err error
	if l.central, err = kafkaclient.NewProducer(o); err != nil {
		return nil, err
	}
	l.setPartitions(1)
	close(l.open)
	l.pause(s.o.Paused[priority])
	return l, nil
}

// admit waits while the lane is stopped at a gap.
func (l *lane) admit(ctx context.Context) error {
	for {
		l.mu.Lock()
		stopped, open := l.stoppedLocked(), l.open
		l.mu.Unlock()
		if !stopped {
			return ctx.Err()
		}
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop stops the lane at a gap, and reports whether the gap is new.
func (l *lane) stop(p partition, g Gap) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, known := l.gaps[p]
	if known {
		g.Since = was.Since
	}
	if !l.stoppedLocked() {
		l.open = make(chan struct{})
	}
	l.gaps[p] = g
	return !known
}

func (l *lane) stoppedLocked() bool { return len(l.gaps) > 0 || l.paused }

func (l *lane) isPaused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

func (l *lane) pause(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.stoppedLocked()
	l.paused = is
	switch now := l.stoppedLocked(); {
	case now && !was:
		l.open = make(chan struct{})
	case was && !now:
		close(l.open)
	}
}

// pass removes a partition's gap, if there is one.
func (l *lane) pass(p partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.gaps[p]; !known {
		return
	}
	if delete(l.gaps, p); !l.stoppedLocked() {
		close(l.open)
	}
}

// gapsNow returns the lane's gaps by partition.
func (l *lane) gapsNow() []Gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Gap, 0, len(l.gaps))
	for _, g := range l.gaps {
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b Gap) int { return a.Partition - b.Partition })
	return all
}

// maxComplaints is the number of gaps in one message.
const maxComplaints = 3

func (l *lane) complaint(gaps []Gap) string {
	var b strings.Builder
	for i, g := range gaps[:min(len(gaps), maxComplaints)] {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(g.Reason)
	}
	if n := len(gaps) - maxComplaints; n > 0 {
		fmt.Fprintf(&b, "; and %d more partitions", n)
	}
	fmt.Fprintf(&b, ". The lane waits: `cellgate sync skip %s` continues after the gap", l.name)
	return b.String()
}

package syncer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// lane is one priority: what this gateway has of one outbox topic. It has a producer, and so connections, of its own:
// nothing of another lane is before it on them.
type lane struct {
	name     string
	priority int
	central  *kafkaclient.Producer
	flow     *kafkaclient.Flow

	mu   sync.Mutex
	gaps map[partition]Gap // while there is one, nothing of the lane is sent
	open chan struct{}     // closed while there is none
}

// Gap is where a lane has stopped: a partition does not have what was to be forwarded next.
type Gap struct {
	Lane      string
	Topic     string
	Partition int
	From, To  int64 // the first record that is missing, and the first that is there
	// Anew says that the partition is not the one that was read, but made anew or cut off; it is unknown then what is
	// missing.
	Anew   bool
	Since  time.Time
	Reason string
}

// Records is how many are missing; false when that is unknown.
func (g *Gap) Records() (n int64, known bool) { return max(0, g.To-g.From), !g.Anew }

// LaneNames are the lanes by priority.
func LaneNames() [lanes]string { return [lanes]string{"p0", "p1", "p2"} }

func (s *Syncer) openLane(priority int) (*lane, error) {
	name := LaneNames()[priority]
	o := s.o.Central
	o.Log, o.Flow = s.o.Log.With("lane", name), s.flow.Lane(priority)
	p, err := kafkaclient.NewProducer(o)
	if err != nil {
		return nil, err
	}
	l := &lane{name: name, priority: priority, central: p, flow: s.flow, gaps: map[partition]Gap{}, open: make(chan struct{})}
	close(l.open)
	return l, nil
}

// produce hands a record to the producer; produced follows.
func (l *lane) produce(r *kafkaclient.Record) {
	if l.priority == 0 {
		l.flow.Urgent(1)
	}
	l.central.Produce(r)
}

func (l *lane) produced() {
	if l.priority == 0 {
		l.flow.Urgent(-1)
	}
}

// admit waits while the lane stands at a gap.
func (l *lane) admit(ctx context.Context) error {
	for {
		l.mu.Lock()
		stopped, open := len(l.gaps) > 0, l.open
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

// stop has the lane stand at a gap, and reports whether that is new.
func (l *lane) stop(p partition, g Gap) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, known := l.gaps[p]
	if known {
		g.Since = was.Since
	}
	if len(l.gaps) == 0 {
		l.open = make(chan struct{})
	}
	l.gaps[p] = g
	return !known
}

// pass takes a partition's gap away, if there is one.
func (l *lane) pass(p partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.gaps[p]; !known {
		return
	}
	if delete(l.gaps, p); len(l.gaps) == 0 {
		close(l.open)
	}
}

// gapsNow are those at which the lane stands, by partition.
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

// maxComplaints is how many gaps a complaint names.
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
	fmt.Fprintf(&b, ". The lane waits: `cellgate sync skip %s` goes on behind what is gone", l.name)
	return b.String()
}

package presence

import (
	"context"
	"sync"
	"time"

	"cellgate/broker/shared/remote"
)

// mirror writes the last event of each VIN to a second place. While that is away it keeps the last event of each VIN,
// within a bound.
type mirror struct {
	o    *Options
	more chan struct{}

	mu     sync.Mutex
	events map[string]Event
}

func (m *mirror) add(events []Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range events {
		m.keepLocked(&events[i])
	}
	signal(m.more)
}

func (m *mirror) keepLocked(e *Event) {
	was, known := m.events[e.VIN]
	switch {
	case known && was.Place().after(e.Place()):
	case known || len(m.events) < m.o.MaxWaiting:
		m.events[e.VIN] = *e
	default:
		m.o.Metrics.mirrored.WithLabelValues("dropped").Inc()
	}
}

func (m *mirror) take() []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	var some []Event
	for vin, e := range m.events {
		if len(some) == publishBatch {
			break
		}
		some = append(some, e)
		delete(m.events, vin)
	}
	return some
}

// run writes until ctx ends. Once ending is closed, it writes until nothing is left or a write fails.
func (m *mirror) run(ctx context.Context, ending <-chan struct{}) {
	for failed := 0; ctx.Err() == nil; {
		some := m.take()
		if len(some) == 0 {
			select {
			case <-m.more:
				continue
			case <-ctx.Done():
			case <-ending:
				select {
				case <-m.more: // the last transaction
					continue
				case <-time.After(2 * gather):
				}
			}
			return
		}
		err := m.o.Mirror(ctx, some)
		if err == nil {
			failed = 0
			m.o.Metrics.mirrored.WithLabelValues("written").Add(float64(len(some)))
			continue
		}
		m.add(some)
		select {
		case <-ending:
			return
		default:
		}
		if failed++; failed == 1 && ctx.Err() == nil {
			m.o.Log.Warn("presence not written to Redis, trying again", "err", err)
		}
		remote.Pause(ctx, remote.Backoff(failed, 100*time.Millisecond, 5*time.Second))
	}
}

package session

import (
	"sync"
	"time"

	"cellgate/broker/shared/heap"
)

// timers wakes the manager for sessions whose will or end is due: one heap and one goroutine for all, at most one entry
// per session.
type timers struct {
	wake chan struct{} // holds one element when the earliest time may have changed

	mu   sync.Mutex
	heap heap.Heap[*state]
}

// set moves the session's timer to a time in ms; 0 removes it.
func (t *timers) set(st *state, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st.timer.at = at
	if at == 0 {
		t.heap.Remove(st)
		return
	}
	t.heap.Put(st)
	if t.heap[0] == st {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// due removes and returns one session whose time has come. If there is none it returns the earliest time, 0 if no timer
// is set.
func (t *timers) due(now int64) (st *state, next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return nil, 0
	}
	if at := t.heap[0].timer.at; at > now {
		return nil, at
	}
	return t.heap.Pop(), 0
}

// Before implements heap.Item.
func (st *state) Before(other *state) bool { return st.timer.at < other.timer.at }

// Place implements heap.Item.
func (st *state) Place() *int32 { return &st.timer.place }

// maxSleep bounds one sleep, so that a jump of Now is noticed.
const maxSleep = time.Minute

func (m *Manager) runTimers() {
	sleep := time.NewTimer(maxSleep)
	defer sleep.Stop()
	for {
		now := m.now()
		st, next := m.timers.due(now)
		if st != nil {
			m.tick(st, now)
			continue
		}
		d := maxSleep
		if next != 0 {
			d = min(d, time.Duration(next-now)*time.Millisecond)
		}
		sleep.Reset(d)
		select {
		case <-sleep.C:
		case <-m.timers.wake:
		case <-m.closed.Done():
			return
		}
	}
}

// tick handles what has become due for one session. While the client is attaching, Attach handles it, so the tick is
// repeated later.
func (m *Manager) tick(st *state, now int64) {
	if !m.gates.tryLock(st.id) {
		m.timers.set(st, now+willRetry.Milliseconds())
		return
	}
	defer m.gates.unlock(st.id)
	st.mu.Lock()
	rec, will := st.takeWill(now)
	switch {
	case st.link.conn != nil:
	case st.ended:
		if !will {
			st.leave()
		}
	case st.expired(now):
		m.metrics.expired.Inc()
		st.end(errSessionEnded)
	default:
		st.schedule()
	}
	st.unlock()
	if !will || m.publishWill(st, &rec) != nil {
		return
	}
	st.mu.Lock()
	if st.ended && st.link.conn == nil {
		st.leave()
	}
	st.unlock()
}

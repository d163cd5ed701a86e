package command

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/statefile"
)

const (
	maxSleep = 30 * time.Second
	// retryEvery is the pause before retrying a queue that could not be delivered, or a failed store.
	retryEvery = time.Second
	// retainEvery is the interval between checks of the history's bounds.
	retainEvery = time.Minute
	// maxExpire bounds the commands that expire in one transaction.
	maxExpire = 1000
)

// loop owns the state: it commits what arrived, then acts on the changes.
func (s *Service) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	nextRetain := time.Now().Add(retainEvery)
	nextRetry := time.Now().Add(retryEvery)
	for {
		select {
		case <-s.inbox.wake:
		case <-timer.C:
		}
		requests, ready, closed := s.inbox.take()
		for vin := range ready {
			s.dirty(vin)
		}
		now := time.Now()
		if !now.Before(nextRetry) {
			nextRetry = now.Add(retryEvery)
			for vin := range s.retry {
				s.dirty(vin)
			}
			clear(s.retry)
		}
		requests = append(requests, s.expiring(now)...)
		if !now.Before(nextRetain) || s.kept > s.o.KeepMax {
			nextRetain = now.Add(retainEvery)
			requests = append(requests, &request{run: (*batch).retain})
		}
		s.commit(requests)
		for _, r := range requests {
			if r.note != nil {
				r.note()
			}
		}
		if closed {
			return // nothing was added after the mark
		}
		s.pumpAll()
		s.gauges()
		timer.Reset(s.sleep(min(time.Until(nextRetain), s.untilRetry(nextRetry))))
	}
}

func (s *Service) untilRetry(next time.Time) time.Duration {
	if len(s.retry) == 0 {
		return maxSleep
	}
	return time.Until(next)
}

// sleep returns the time until something is due.
func (s *Service) sleep(atMost time.Duration) time.Duration {
	d := min(atMost, maxSleep)
	if len(s.open.heap) > 0 {
		due := time.UnixMilli(s.open.heap[0].rec.until()).Sub(s.o.Clock.Now())
		d = min(d, max(due, time.Until(s.grace)))
	}
	return max(d, 0)
}

// expiring returns requests that expire the commands that are due.
func (s *Service) expiring(now time.Time) []*request {
	if now.Before(s.grace) {
		return nil
	}
	passed := s.o.Clock.Now().UnixMilli()
	var due []*entry
	// The heap stays unchanged: commit removes the entries once their end is on disk.
	var visit func(i int)
	visit = func(i int) {
		if i >= len(s.open.heap) || len(due) == maxExpire || s.open.heap[i].rec.until() > passed {
			return
		}
		due = append(due, s.open.heap[i])
		visit(2*i + 1)
		visit(2*i + 2)
	}
	visit(0)
	if due == nil {
		return nil
	}
	if s.o.Cell != nil {
		s.expireTogether(due)
		return nil
	}
	slices.SortFunc(due, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.rec.until(), b.rec.until()), cmp.Compare(a.rec.Seq, b.rec.Seq))
	})
	seqs := make([]uint64, len(due))
	for i, e := range due {
		seqs[i] = e.rec.Seq
	}
	return []*request{{run: func(b *batch) error {
		for _, seq := range seqs {
			if err := b.expire(seq); err != nil {
				return err
			}
		}
		return nil
	}}}
}

// commit applies requests in one transaction, in order. If the store fails, none is applied: those with must are
// retried until they succeed, the others get the error.
func (s *Service) commit(requests []*request) {
	for len(requests) > 0 {
		err := s.transact(requests)
		if err == nil {
			for _, r := range requests {
				r.end(r.err)
			}
			return
		}
		s.o.Log.Error("commands not written", "err", err)
		if pause := time.Now().Add(retryEvery); pause.After(s.grace) {
			s.grace = pause // what is due stays due; do not retry in a busy loop
		}
		must := requests[:0:0]
		for _, r := range requests {
			if r.must {
				must = append(must, r)
				continue
			}
			r.end(fmt.Errorf("%w: %w", errStore, err))
		}
		requests = must
		if len(requests) > 0 && !s.pause() {
			for _, r := range requests {
				r.end(fmt.Errorf("%w: %w", errStore, err))
			}
			return
		}
	}
}

// pause waits before a failed store is retried; false if the service is closing.
func (s *Service) pause() bool {
	time.Sleep(retryEvery)
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	return !s.inbox.closed
}

// transact runs requests in one transaction and updates memory once it is on disk.
func (s *Service) transact(requests []*request) error {
	if !writes(requests) {
		return nil
	}
	var b *batch
	commit := s.index.during()
	err := s.o.DB.Update(func(tx *statefile.Tx) error {
		b = newBatch(s, tx)
		for _, r := range requests {
			if r.run != nil {
				r.err = r.run(b)
			}
			if b.fail != nil {
				return b.fail
			}
		}
		return nil
	})
	if err != nil {
		commit(nil)
		return err
	}
	commit(b.t.changed)
	s.waiting += b.events
	s.answers += b.answers
	s.kept += b.done
	for _, f := range b.after {
		f()
	}
	if b.events > 0 {
		signal(s.eventsC)
	}
	if b.answers > 0 {
		signal(s.answersC)
	}
	for _, r := range requests {
		if errors.Is(r.err, errMore) {
			s.post((*batch).retain)
		}
	}
	return nil
}

func writes(requests []*request) bool {
	for _, r := range requests {
		if r.run != nil {
			return true
		}
	}
	return false
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// entered counts a command's new state.
func (s *Service) entered(r *record) {
	s.metrics.states.WithLabelValues(string(r.State)).Inc()
}

// moved applies a committed change of state to memory.
func (s *Service) moved(r *record) {
	s.entered(r)
	s.know(r)
}

// know updates memory from a command on disk.
func (s *Service) know(r *record) {
	if !r.State.Final() {
		if e := s.open.bySeq[r.Seq]; e != nil {
			e.rec = r
		}
		return
	}
	if e := s.open.bySeq[r.Seq]; e != nil {
		s.open.remove(e)
		s.metrics.seconds.Observe(float64(r.done()-r.until()+r.TTL) / 1000)
		s.dirty(r.VIN)
	}
	s.waiters.notify(r.ID)
}

func (s *Service) gauges() {
	st := Stat{Open: len(s.open.bySeq), Kept: s.kept, Waiting: s.waiting}
	s.metrics.open.Set(float64(st.Open))
	s.metrics.kept.Set(float64(st.Kept))
	s.metrics.events.Set(float64(st.Waiting))
	s.metrics.answers.Set(float64(s.answers))
	s.stat.Store(&st)
}

// dirty marks a vehicle whose queue may have something to send.
func (s *Service) dirty(vin string) {
	if s.open.queues[vin] != nil {
		s.pending[vin] = struct{}{}
	}
}

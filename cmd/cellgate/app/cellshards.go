package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
)

// shards are the servers of Redis: one, or the primaries of a cluster. One that does not answer hurts the vehicles of its slots only.
// It is safe for concurrent use.
type shards struct{ all atomic.Pointer[[]*shard] } // by first slot; they cover all slots

// shard is a server of Redis with its slots, according to the calls to it.
type shard struct {
	first, last int

	away    atomic.Bool  // it does not answer
	failed  atomic.Int32 // consecutive calls that timed out or whose connection broke
	changed atomic.Int64 // time of the last change of away, ns
}

// newShards returns one shard, which is away until it has answered.
func newShards(slots int) *shards {
	one := &shard{last: slots - 1}
	one.away.Store(true)
	one.changed.Store(time.Now().UnixNano())
	s := &shards{}
	s.all.Store(&[]*shard{one})
	return s
}

func (s *shards) of(slot int) *shard {
	all := *s.all.Load()
	at, exact := slices.BinarySearchFunc(all, slot, func(one *shard, slot int) int { return one.first - slot })
	if !exact {
		at--
	}
	return all[at]
}

// split adopts the cluster's division of the slots. A new shard begins in the state of the one that had its first slot.
func (s *shards) split(servers map[int]cell.Server) {
	former := *s.all.Load()
	end := former[len(former)-1].last
	var all []*shard
	add := func(first, last int) {
		old := s.of(first)
		if old.first == first && old.last == last {
			all = append(all, old)
			return
		}
		one := &shard{first: first, last: last}
		one.away.Store(old.away.Load())
		one.changed.Store(old.changed.Load())
		all = append(all, one)
	}
	next := 0
	for _, first := range slices.Sorted(maps.Keys(servers)) {
		if first > next { // slots that no server has
			add(next, first-1)
		}
		next = servers[first].Last + 1
		add(first, next-1)
	}
	if next <= end {
		add(next, end)
	}
	if !slices.Equal(all, former) {
		s.all.Store(&all)
	}
}

// away returns the shards that do not answer, and whether these are all.
func (s *shards) away() (some []*shard, all bool) {
	every := *s.all.Load()
	for _, one := range every {
		if one.away.Load() {
			some = append(some, one)
		}
	}
	return some, len(some) == len(every)
}

// changed returns when a shard was last lost or found again.
func (s *shards) changed() time.Time {
	var last int64
	for _, one := range *s.all.Load() {
		last = max(last, one.changed.Load())
	}
	return time.Unix(0, last).UTC()
}

// isAway reports whether the server of a slot does not answer.
func (m *member) isAway(slot int) bool { return m.shards.of(slot).away.Load() }

// isAwayFor reports whether the server that has a vehicle does not answer.
func (m *member) isAwayFor(vin string) bool { return m.isAway(m.store.Slot(vin)) }

// answering returns those of some slots whose server answers.
func (m *member) answering(slots map[int]struct{}) iter.Seq[int] {
	return func(yield func(int) bool) {
		for slot := range slots {
			if !m.isAway(slot) && !yield(slot) {
				return
			}
		}
	}
}

// allAway reports whether no server of Redis answers.
func (m *member) allAway() bool {
	_, all := m.shards.away()
	return all
}

// anyAway reports whether a server of Redis does not answer.
func (m *member) anyAway() bool {
	some, _ := m.shards.away()
	return len(some) > 0
}

// failedCalls is how many consecutive timeouts or broken connections mean that a server is away. A single timeout may be a moment of
// high load, here or there, and a broken connection says nothing about the next one.
const failedCalls = 2

// timeOver reports whether a call timed out on an existing connection.
func timeOver(err error) bool {
	var way *net.OpError
	if errors.As(err, &way) && way.Op == "dial" {
		return false
	}
	var timed net.Error
	return errors.Is(err, redis.ErrPoolTimeout) || errors.As(err, &timed) && timed.Timeout()
}

// note records the outcome of a call to the server of a slot.
func (m *member) note(slot int, err error) {
	one := m.shards.of(slot)
	switch {
	case err == nil, errors.Is(err, cell.ErrUnconfirmed):
		one.failed.Store(0)
		if one.away.CompareAndSwap(true, false) {
			one.changed.Store(time.Now().UnixNano())
			m.returned.Add(1)
			m.log.Info("Redis answers", m.named(one)...)
			m.wakeUp()
		}
	case errors.Is(err, cell.ErrAway) && !errors.Is(err, context.Canceled):
		if (timeOver(err) || brokeOff(err)) && one.failed.Add(1) < failedCalls {
			return
		}
		if one.away.CompareAndSwap(false, true) {
			one.changed.Store(time.Now().UnixNano())
			m.log.Warn("Redis does not respond: vehicles are served from local state, commands are refused", append(m.named(one), slog.Any("err", err))...)
		}
	}
}

// named returns what distinguishes a shard in the log: nothing if there is one only.
func (m *member) named(one *shard) []any {
	if m.store.Slots() == 1 {
		return nil
	}
	return []any{slog.String("slots", one.String())}
}

func (s *shard) String() string { return fmt.Sprintf("%d-%d", s.first, s.last) }

package command

import (
	"errors"
	"sync"

	"cellgate/broker/cell"
)

// unwritten has the answers of Redis that are not in the state file yet, by slot. A Redis server that has lost data is offered
// what is in the state file, and these: they are published or sent next. An answer that was still on its way then is in neither,
// and is not taken. Their number is bounded by that of the requests: each has one at most, as has each callback of a delivery.
type unwritten struct {
	mu     sync.Mutex
	slots  map[int]map[*held]struct{}
	offers map[int]uint64 // how often a slot's commands have been offered
}

// decision is an answer of Redis. It is held until it is in the state file, or is found not to be needed there.
type decision struct {
	cell.Answer
	held *held // nil without a command
}

// held is the command of an answer.
type held struct {
	in     *unwritten
	slot   int
	record cell.Record
}

// errOffered means that this gateway's state was offered to another server between a question and its answer.
var errOffered = errors.New("the Redis server was replaced meanwhile")

func newUnwritten() *unwritten {
	return &unwritten{slots: map[int]map[*held]struct{}{}, offers: map[int]uint64{}}
}

// begin returns what take needs to know about the time of a question.
func (u *unwritten) begin(slot int) uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.offers[slot]
}

// take holds the answer to a question; false if the slot's commands have been offered since begin.
func (u *unwritten) take(slot int, began uint64, a *decision) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.offers[slot] != began {
		return false
	}
	if a.Record.State == "" {
		return true
	}
	a.held = &held{in: u, slot: slot, record: a.Record}
	if u.slots[slot] == nil {
		u.slots[slot] = map[*held]struct{}{}
	}
	u.slots[slot][a.held] = struct{}{}
	return true
}

// offer begins an offer of a slot's commands and returns those held.
func (u *unwritten) offer(slot int) []cell.Record {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.offers[slot]++
	out := make([]cell.Record, 0, len(u.slots[slot]))
	for h := range u.slots[slot] {
		out = append(out, h.record)
	}
	return out
}

// release ends the holding: the command is in the state file, or nothing is published or sent of this answer.
func (h *held) release() {
	if h == nil {
		return
	}
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if delete(h.in.slots[h.slot], h); len(h.in.slots[h.slot]) == 0 {
		delete(h.in.slots, h.slot)
	}
}

// write posts a change that writes an answer.
func (s *Service) write(a *decision, run func(*batch) error) {
	s.inbox.post(&request{must: true, run: run, holds: []*held{a.held}})
}

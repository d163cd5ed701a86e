package command

import (
	"errors"
	"sync"

	"cellgate/broker/cell"
)

// unwritten has the answers of Redis that are not in the state file yet, by the slots of vehicle and id. A Redis server that has lost data is offered
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
	slots  [2]int
	record cell.Record
}

// errOffered means that this gateway's state was offered to another server between a question and its answer.
var errOffered = errors.New("the Redis server was replaced meanwhile")

func newUnwritten() *unwritten {
	return &unwritten{slots: map[int]map[*held]struct{}{}, offers: map[int]uint64{}}
}

// slotsOf returns the slots that a command is offered in.
func (c *Cell) slotsOf(vin, id string) [2]int { return [2]int{c.Store.Slot(vin), c.Store.IDSlot(id)} }

// begin returns what take needs to know about the time of a question.
func (u *unwritten) begin(slots [2]int) uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.offersLocked(slots)
}

func (u *unwritten) offersLocked(slots [2]int) uint64 { return u.offers[slots[0]] + u.offers[slots[1]] }

// take holds the answer to a question; false if a slot's commands have been offered since begin.
func (u *unwritten) take(slots [2]int, began uint64, a *decision) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.offersLocked(slots) != began {
		return false
	}
	if a.Record.State == "" {
		return true
	}
	a.held = &held{in: u, slots: slots, record: a.Record}
	for _, slot := range slots {
		if u.slots[slot] == nil {
			u.slots[slot] = map[*held]struct{}{}
		}
		u.slots[slot][a.held] = struct{}{}
	}
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
	for _, slot := range h.slots {
		if delete(h.in.slots[slot], h); len(h.in.slots[slot]) == 0 {
			delete(h.in.slots, slot)
		}
	}
}

// write posts a change that writes an answer.
func (s *Service) write(a *decision, run func(*batch) error) {
	s.inbox.post(&request{must: true, run: run, holds: []*held{a.held}})
}

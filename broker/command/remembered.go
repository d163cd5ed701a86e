package command

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"

	"cellgate/broker/cell"
	"cellgate/broker/shared/statefile"
)

const (
	// offeredAtOnce is the number of commands read in one transaction.
	offeredAtOnce = 256
	// maxForgotten is how many commands that are forgotten the index of slots may list beyond the number of those that are not.
	maxForgotten = 4096
)

// slotIndex maps the slots of a Redis cluster to commands of the state file below next, each in the slots of its vehicle and its
// id. It is brought up to date whenever a slot is offered: after a failover thousands are, one by one. It may list commands that
// are forgotten.
type slotIndex struct {
	mu     sync.Mutex
	bySlot map[int][]uint64
	size   int // commands that it lists
	next   uint64
}

// Remembered iterates over the state file's commands whose vehicle or id is in a slot, and those that are about to be written to
// it, as they are offered to a new Redis server. An error ends the iteration.
func (s *Service) Remembered(slot int) iter.Seq2[cell.Record, error] {
	return func(yield func(cell.Record, error) bool) {
		if !each(s.unwritten.offer(slot), yield) { // before the state file is read: what is written meanwhile is in both
			return
		}
		parts := s.partsOf(slot)
		for {
			part, more, err := parts()
			if err != nil {
				yield(cell.Record{}, err)
				return
			}
			if !each(part, yield) || !more {
				return
			}
		}
	}
}

// partsOf returns a function that reads the next part of a slot's commands, and reports whether there are more.
func (s *Service) partsOf(slot int) func() ([]cell.Record, bool, error) {
	if s.o.Cell.Store.Slots() == 1 {
		from := uint64(0)
		return func() (part []cell.Record, more bool, err error) {
			part, from, more, err = s.offersFrom(from)
			return part, more, err
		}
	}
	known, err := s.slots.of(slot, s)
	return func() (part []cell.Record, more bool, _ error) {
		if err != nil {
			return nil, false, err
		}
		n := min(len(known), offeredAtOnce)
		part, err = s.offersOf(known[:n])
		known = known[n:]
		return part, len(known) > 0, err
	}
}

func each(all []cell.Record, yield func(cell.Record, error) bool) bool {
	for i := range all {
		if !yield(all[i], nil) {
			return false
		}
	}
	return true
}

// of returns the commands of a slot.
func (x *slotIndex) of(slot int, s *Service) ([]uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := s.o.DB.View(func(tx *statefile.Tx) error { return x.update(tablesOf(tx), s.o.Cell) })
	if err != nil {
		x.bySlot = nil
	}
	return x.bySlot[slot], err
}

// update adds the commands since the last call.
func (x *slotIndex) update(t *tables, c *Cell) error {
	if x.bySlot == nil || x.size > 2*t.meta().Keys()+maxForgotten {
		x.bySlot, x.size, x.next = map[int][]uint64{}, 0, 0
	}
	all := t.meta().Cursor()
	for k, v := all.Seek(key(x.next)); k != nil; k, v = all.Next() {
		var r struct {
			ID  string `json:"id"`
			VIN string `json:"vin"`
		}
		seq := number(k)
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("command %d is not readable: %w", seq, err)
		}
		slots := c.slotsOf(r.VIN, r.ID)
		for _, n := range slices.Compact(slots[:]) {
			x.bySlot[n] = append(x.bySlot[n], seq)
		}
		x.size, x.next = x.size+1, seq+1
	}
	return nil
}

func (s *Service) offersOf(seqs []uint64) (part []cell.Record, err error) {
	err = s.o.DB.View(func(tx *statefile.Tx) error {
		t := tablesOf(tx)
		for _, seq := range seqs {
			rec, err := t.bySeq(seq)
			if err != nil {
				return err
			}
			if rec != nil {
				part = append(part, t.offer(rec))
			}
		}
		return nil
	})
	return part, err
}

// offersFrom reads a part of the commands; next is where the following part begins, more whether there is one.
func (s *Service) offersFrom(from uint64) (part []cell.Record, next uint64, more bool, err error) {
	err = s.o.DB.View(func(tx *statefile.Tx) error {
		t := tablesOf(tx)
		c := t.meta().Cursor()
		n := 0
		for k, _ := c.Seek(key(from)); k != nil; k, _ = c.Next() {
			if n++; n > offeredAtOnce {
				next, more = number(k), true
				return nil
			}
			rec, err := t.bySeq(number(k))
			if err != nil {
				return err
			}
			part = append(part, t.offer(rec))
		}
		return nil
	})
	return part, next, more, err
}

// offer returns a command as Redis stores it. A command accepted while a single gateway served the cell is numbered in
// the order of acceptance.
func (t *tables) offer(r *record) cell.Record {
	k := key(r.Seq)
	out := cell.Record{
		ID: r.ID, VIN: r.VIN, State: string(r.State), Cause: r.Cause, Outcome: string(r.Outcome), Digest: digestText(r.Digest),
		Gen: r.Gen, Number: r.Number, Created: r.Created, Expires: r.Expires, Sent: r.Sent, Delivered: r.Delivered, Accepted: r.Accepted,
		Done: r.Finished, LateAccepted: r.LateAccepted, Late: r.Late, Result: string(t.result().Get(k)), Told: r.State.Final() && r.published(),
		Fields: map[string]string{
			fieldName: r.Name, fieldPayload: string(t.payload().Get(k)), fieldOrigin: r.Origin, fieldBy: r.By, fieldNode: r.Node,
			fieldTTL: strconv.FormatInt(r.TTL, 10),
		},
	}
	if out.Number == 0 {
		out.Number = r.Seq
	}
	if r.State == Queued && r.Handed {
		out.State = string(Sent) // it may have been sent
	}
	if r.JSON {
		out.Fields[fieldJSON] = set
	}
	if r.Urgent {
		out.Fields[fieldUrgent] = set
	}
	if r.Props {
		out.Fields[fieldProps] = string(t.props().Get(k))
	}
	return out
}

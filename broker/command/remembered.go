package command

import (
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
	// maxUnindexed is how many commands may follow the index of slots before it is rebuilt.
	maxUnindexed = 4096
)

// slotIndex maps the slots of a Redis cluster to commands of the state file below next. It is built when everything is
// to be offered, and may list commands that are forgotten.
type slotIndex struct {
	mu     sync.Mutex
	bySlot map[int][]uint64
	next   uint64
}

// Remembered iterates over the state file's commands whose vehicle or id is in a slot, and those that are about to be written to it, as they are offered to
// a new Redis server. An error ends the iteration.
func (s *Service) Remembered(slot int) iter.Seq2[cell.Record, error] {
	return func(yield func(cell.Record, error) bool) {
		if !each(s.unwritten.offer(slot), yield) { // before the state file is read: what is written meanwhile is in both
			return
		}
		known, from, err := s.indexed(slot)
		for err == nil && len(known) > 0 {
			var part []cell.Record
			n := min(len(known), offeredAtOnce)
			if part, err = s.offersOf(known[:n]); err == nil && !each(part, yield) {
				return
			}
			known = known[n:]
		}
		for more := true; err == nil && more; {
			var part []cell.Record
			if part, from, more, err = s.offersFrom(slot, from); err == nil && !each(part, yield) {
				return
			}
		}
		if err != nil {
			yield(cell.Record{}, err)
		}
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

// indexed returns the indexed commands of a slot, and the first sequence that the index does not cover.
func (s *Service) indexed(slot int) ([]uint64, uint64, error) {
	if s.o.Cell.Store.Slots() == 1 {
		return nil, 0, nil
	}
	x := &s.slots
	x.mu.Lock()
	defer x.mu.Unlock()
	err := s.o.DB.View(func(tx *statefile.Tx) error {
		t := tablesOf(tx)
		last, _ := t.meta.Cursor().Last()
		if x.bySlot != nil && number(last) < x.next+maxUnindexed {
			return nil
		}
		x.bySlot, x.next = map[int][]uint64{}, number(last)+1
		return t.meta.ForEach(func(k, _ []byte) error {
			rec, err := t.bySeq(number(k))
			if err == nil {
				slots := s.o.Cell.slotsOf(rec.VIN, rec.ID)
				for _, n := range slices.Compact(slots[:]) {
					x.bySlot[n] = append(x.bySlot[n], rec.Seq)
				}
			}
			return err
		})
	})
	if err != nil {
		x.bySlot = nil
	}
	return x.bySlot[slot], x.next, err
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
func (s *Service) offersFrom(slot int, from uint64) (part []cell.Record, next uint64, more bool, err error) {
	err = s.o.DB.View(func(tx *statefile.Tx) error {
		t := tablesOf(tx)
		c := t.meta.Cursor()
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
			if slots := s.o.Cell.slotsOf(rec.VIN, rec.ID); slices.Contains(slots[:], slot) {
				part = append(part, t.offer(rec))
			}
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
		Done: r.Finished, LateAccepted: r.LateAccepted, Late: r.Late, Result: string(t.result.Get(k)), Told: r.State.Final() && r.published(),
		Fields: map[string]string{
			fieldName: r.Name, fieldPayload: string(t.payload.Get(k)), fieldOrigin: r.Origin, fieldBy: r.By, fieldNode: r.Node,
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
		out.Fields[fieldProps] = string(t.props.Get(k))
	}
	return out
}

package command

import (
	"context"
	"errors"
	"math"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/statefile"
)

const (
	// maxNotices bounds what waits to be told to the other gateways. What is not told is found by sweeps.
	maxNotices = 4096
	// noticesAtOnce go to Redis in one pipeline.
	noticesAtOnce = 256
	// sweepEvery is the time between two looks at a slot; of a cluster's many a part is looked at each time.
	sweepEvery  = time.Second
	sweepsRound = 30
	// overdue is how long a command may have ended before the gateways that do not keep it look after it.
	overdue = 2 * time.Second
	// maxDue bounds the ended commands of a slot in one sweep.
	maxDue = 256
)

// startTogether begins what several gateways need: to tell each other of commands, to hear that, and to look for what was missed.
func (s *Service) startTogether(ctx context.Context) {
	s.turns.ctx = ctx
	s.wg.Go(func() { s.tellAll(ctx) })
	s.wg.Go(func() { s.listen(ctx) })
	s.wg.Go(func() { s.sweep(ctx) })
}

// tellQueued tells of a new command, unless it is for a vehicle of this gateway.
func (s *Service) tellQueued(r *record) {
	if _, mine := s.o.Cell.Owner(r.VIN); !mine {
		s.tell(cell.Notice{What: cell.Queued, VIN: r.VIN, ID: r.ID})
	}
}

// tellEnd tells the gateway that accepted a command, and keeps it as open, of its end.
func (s *Service) tellEnd(r *record) {
	if r.State.Final() && r.Node != s.o.Cell.Node {
		s.tell(cell.Notice{What: cell.Ended, VIN: r.VIN, ID: r.ID})
	}
}

func (s *Service) tell(n cell.Notice) {
	select {
	case s.notices <- n:
	default: // a sweep finds it
	}
}

func (s *Service) tellAll(ctx context.Context) {
	var some []cell.Notice
	for {
		some = some[:0]
		select {
		case n := <-s.notices:
			some = append(some, n)
		case <-ctx.Done():
			return
		}
		for len(some) < noticesAtOnce && len(s.notices) > 0 {
			some = append(some, <-s.notices)
		}
		if err := s.o.Cell.Store.TellCommands(ctx, some); err != nil {
			s.o.Log.Debug("other gateways not notified of commands; they find them at their next sweep", "err", err)
		}
	}
}

// listen reads what other gateways tell of.
func (s *Service) listen(ctx context.Context) {
	pause := newBackoff()
	s.o.Cell.Store.ListenCommands(ctx, func() { pause.reset() }, s.heardOf, func(err error) bool {
		s.o.Log.Debug("notices from other gateways not received", "err", err)
		return pause.sleep(ctx)
	})
}

func (s *Service) heardOf(n cell.Notice) {
	switch n.What {
	case cell.Queued:
		if _, mine := s.o.Cell.Owner(n.VIN); mine {
			s.turns.run(n.VIN, func(ctx context.Context) { s.read(ctx, n.VIN, n.ID) })
		}
	case cell.Ended:
		if rec := s.local(n.ID); rec != nil && !rec.State.Final() {
			s.turns.run(n.VIN, func(ctx context.Context) { s.read(ctx, n.VIN, n.ID) })
		}
	}
}

// local is what the state file has of a command.
func (s *Service) local(id string) (rec *record) {
	_ = s.o.DB.View(func(tx *statefile.Tx) (err error) {
		t := tablesOf(tx)
		rec, err = t.byID(id)
		return err
	})
	return rec
}

// read takes over a command as the cell has it, and reports whether it has it.
func (s *Service) read(ctx context.Context, vin, id string) bool {
	a, err := s.ask(ctx, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Look(ctx, vin, id) })
	if err != nil || a.Verdict != cell.OK {
		return false
	}
	s.takeOver(&a)
	return true
}

func (s *Service) takeOver(a *cell.Answer) {
	s.post(func(b *batch) error {
		_, err := b.adopt(a, false, nil)
		return err
	})
}

// readVehicle takes over what is open for a vehicle that has come to this gateway.
func (s *Service) readVehicle(vin string) {
	if _, mine := s.o.Cell.Owner(vin); !mine {
		return
	}
	s.turns.run(vin, func(ctx context.Context) { s.readBefore(ctx, vin, math.MaxInt64) })
}

// permit asks whether commands may be sent by the connection that this gateway has of the vehicle. They are sent when that is on
// disk, as with hand.
func (s *Service) permit(vin string, hand []uint64, by cell.Connection) {
	for _, seq := range hand {
		e := s.open.bySeq[seq]
		if e.asking || e.permit == by.Epoch {
			continue
		}
		e.asking = true
		id, number := e.rec.ID, e.rec.Number
		s.turns.run(vin, func(ctx context.Context) {
			if s.readBefore(ctx, vin, number) {
				s.note(func() { s.askAgain(seq) })
				return
			}
			a, err := s.ask(ctx, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Send(ctx, vin, id, by) })
			s.permitted(seq, by.Epoch, a, err)
		})
	}
}

func (s *Service) askAgain(seq uint64) {
	if e := s.open.bySeq[seq]; e != nil {
		e.asking = false
		s.dirty(e.rec.VIN)
	}
}

// readBefore takes over what was accepted before a command and this gateway has not heard of, so that it is not overtaken. It
// reports whether there was something.
func (s *Service) readBefore(ctx context.Context, vin string, number uint64) bool {
	c := s.o.Cell
	if c.Usable(c.Store.Slot(vin)) != nil {
		return false
	}
	var ids []string
	var err error
	if !s.turns.at(ctx, func() { ids, err = c.Store.OpenOf(ctx, vin, number, s.o.MaxQueued) }) {
		return false
	}
	found := false
	for _, id := range ids {
		if err == nil && s.local(id) == nil {
			found = s.read(ctx, vin, id) || found
		}
	}
	return found
}

// permitted deals with the answer.
func (s *Service) permitted(seq uint64, epoch int64, a cell.Answer, err error) {
	answered := func(e *entry) { e.asking = false }
	switch {
	case err != nil:
	case a.Verdict == cell.OK:
		s.post(func(b *batch) error {
			known, err := b.t.bySeq(seq)
			if b.broken(err) != nil {
				return err
			}
			first := known != nil && known.State == Queued && (a.Record.Sent == a.Now || b.s.open.bySeq[seq] != nil && b.s.open.bySeq[seq].asked)
			if _, err := b.adopt(&a, first, nil); err != nil {
				return err
			}
			b.after = append(b.after, func() {
				if e := b.s.open.bySeq[seq]; e != nil {
					e.asking, e.asked, e.permit = false, false, epoch
					b.s.dirty(e.rec.VIN)
				}
			})
			return nil
		})
		return
	case a.Verdict == cell.Already:
		s.takeOver(&a)
	case a.Verdict == cell.Doubt:
		answered = func(e *entry) { e.asking, e.doubt = false, true } // it ends with its time, as unknown
	case a.Verdict == cell.Missing:
		s.vanished(seq)
	}
	s.note(func() {
		if e := s.open.bySeq[seq]; e != nil {
			answered(e)
			e.asked = errors.Is(err, ErrUnknown) // the script may have run
			s.retry[e.rec.VIN] = struct{}{}
		}
	})
}

// vanished ends a command that the cell does not know any more: what became of it was told by another gateway, and is forgotten.
func (s *Service) vanished(seq uint64) {
	s.post(func(b *batch) error {
		rec, err := b.t.bySeq(seq)
		if b.broken(err) != nil || rec == nil || rec.State.Final() {
			return err
		}
		rec.State, rec.Cause, rec.Finished, rec.Done = Expired, causeUnknown, b.now, b.passed
		b.done++
		b.after = append(b.after, func() { b.s.know(rec) })
		return b.broken(b.t.put(rec))
	})
}

// causeUnknown is why a command expired of which a gateway that has lost its memory may know more.
const causeUnknown = "unknown"

// expireTogether has the cell end what is due by this gateway's clock. It is looked at again in a moment: the cell's decides.
func (s *Service) expireTogether(due []*entry) {
	c := s.o.Cell
	again := s.o.Clock.Now().Add(retryEvery).UnixMilli()
	for _, e := range due {
		later := *e.rec
		later.Until = again
		e.rec = &later
		s.open.heap.Put(e)
		vin, id, seq := later.VIN, later.ID, later.Seq
		if e.ending || c.Usable(c.Store.Slot(vin)) != nil {
			continue
		}
		e.ending = true
		s.turns.run(vin, func(ctx context.Context) {
			if s.endTogether(ctx, vin, id) == cell.Missing {
				s.vanished(seq)
			}
			s.note(func() {
				if e := s.open.bySeq[seq]; e != nil {
					e.ending = false
				}
			})
		})
	}
}

// endTogether asks whether a command has expired.
func (s *Service) endTogether(ctx context.Context, vin, id string) cell.Verdict {
	a, err := s.change(ctx, vin, id, Expired, func(st *cell.Store) (cell.Answer, error) { return st.Expire(ctx, vin, id) })
	if err == nil && (a.Verdict == cell.OK || a.Verdict == cell.Already) {
		s.post(func(b *batch) error {
			_, err := b.adopt(&a, a.Verdict == cell.OK, nil)
			return err
		})
	}
	return a.Verdict
}

// sweep looks for what this gateway was not notified of: commands that have ended at gateways that are gone, and those for vehicles that
// it has.
func (s *Service) sweep(ctx context.Context) {
	slots := s.o.Cell.Store.Slots()
	part := (slots + sweepsRound - 1) / sweepsRound
	cursors, slot := map[int]uint64{}, 0
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for range min(part, slots) {
			if s.o.Cell.Usable(slot) == nil {
				s.sweepDue(ctx, slot)
				s.sweepOpen(ctx, slot, cursors)
			}
			slot = (slot + 1) % slots
		}
	}
}

func (s *Service) sweepDue(ctx context.Context, slot int) {
	due, err := s.o.Cell.Store.Due(ctx, slot, maxDue, overdue)
	for _, n := range due {
		if err != nil || ctx.Err() != nil {
			return
		}
		s.turns.run(n.VIN, func(ctx context.Context) { s.endTogether(ctx, n.VIN, n.ID) })
	}
}

// sweepOpen looks at a part of a slot's open commands.
func (s *Service) sweepOpen(ctx context.Context, slot int, cursors map[int]uint64) {
	names, next, err := s.o.Cell.Store.OpenCommands(ctx, slot, cursors[slot])
	if err != nil {
		return
	}
	if cursors[slot] = next; next == 0 {
		delete(cursors, slot)
	}
	for _, n := range names {
		if _, mine := s.o.Cell.Owner(n.VIN); mine && s.local(n.ID) == nil {
			s.turns.run(n.VIN, func(ctx context.Context) { s.read(ctx, n.VIN, n.ID) })
		}
	}
}

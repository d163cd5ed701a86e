package command

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/statefile"
)

const (
	// maxNotices bounds the notices waiting for other gateways. Sweeps find what is dropped.
	maxNotices = 4096
	// noticesAtOnce is the number of notices in one pipeline.
	noticesAtOnce = 256
	// sweepEvery is the interval of sweeps of a slot; in a cluster each sweep covers a part of the slots.
	sweepEvery  = time.Second
	sweepsRound = 30
	// overdue is how long after a command's expiry gateways that do not keep it as open end it.
	overdue = 2 * time.Second
	// sweptAtOnce is the number of slots read in one call.
	sweptAtOnce = 64
	// maxDue bounds the expired commands of a slot in one sweep.
	maxDue = 256
)

// startTogether starts what several gateways need: sending and receiving notices about commands, and sweeps for missed
// ones.
func (s *Service) startTogether(ctx context.Context) {
	s.turns.ctx = ctx
	s.wg.Go(func() { s.sendNotices(ctx) })
	s.wg.Go(func() { s.listen(ctx) })
	s.wg.Go(func() { s.sweep(ctx) })
}

// passOn notifies the other gateways of a command that the cell has accepted. If its vehicle is connected here, it requests the
// permission to send it instead, if it is the vehicle's only one. Both happen while this gateway writes the command to its
// disk. The permission is written after it, because its turn comes after the one that passes the command to the loop. That does
// not hold for Kafka's commands, which are written together: they are sent from the loop.
func (s *Service) passOn(r *Request) {
	vin, id := r.VIN, r.ID
	switch _, mine := s.o.Cell.Owner(vin); {
	case !mine:
		s.notify(cell.Notice{What: cell.Queued, VIN: vin, ID: id})
	case r.Origin != OriginKafka:
		r.sending = s.turns.run(vin, func(ctx context.Context) {
			if !s.sendAlone(ctx, vin, id) {
				s.note(func() { s.sendLater(vin, id) })
			}
		})
	}
}

// asks records that the permission to send a new command is being requested.
func (s *Service) asks(seq uint64) {
	if e := s.open.bySeq[seq]; e != nil {
		e.asking = true
	}
}

// sendLater leaves a new command, which was not sent at once, to the vehicle's queue.
func (s *Service) sendLater(vin, id string) {
	l := s.open.queues[vin]
	if l == nil {
		return
	}
	for _, e := range l.entries {
		if e.rec.ID == id {
			s.askAgain(e.rec.Seq)
		}
	}
}

// notifyEnd notifies the gateway that accepted a command, and keeps it as open, of its end.
func (s *Service) notifyEnd(r *record) {
	if r.State.Final() && r.Node != s.o.Cell.Node {
		s.notify(cell.Notice{What: cell.Ended, VIN: r.VIN, ID: r.ID})
	}
}

func (s *Service) notify(n cell.Notice) {
	select {
	case s.notices <- n:
	default: // a sweep finds it
	}
}

func (s *Service) sendNotices(ctx context.Context) {
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
		if err := s.o.Cell.Store.NotifyCommands(ctx, some); err != nil {
			s.o.Log.Debug("other gateways not notified of commands; they find them at their next sweep", "err", err)
		}
	}
}

// listen handles notices of other gateways.
func (s *Service) listen(ctx context.Context) {
	failed := 0
	s.o.Cell.Store.ListenCommands(ctx, func() { failed = 0 }, s.onNotice, func(err error) bool {
		s.o.Log.Debug("notices from other gateways not received", "err", err)
		failed++
		return again(ctx, failed, longestBackoff)
	})
}

func (s *Service) onNotice(n cell.Notice) {
	switch n.What {
	case cell.Queued:
		if _, mine := s.o.Cell.Owner(n.VIN); mine {
			s.turns.run(n.VIN, func(ctx context.Context) { s.fetch(ctx, n.VIN, n.ID) })
		}
	case cell.Ended:
		if rec := s.local(n.ID); rec != nil && !rec.State.Final() {
			s.turns.run(n.VIN, func(ctx context.Context) { s.read(ctx, n.VIN, n.ID) })
		}
	}
}

// local returns a command's record in the state file.
func (s *Service) local(id string) (rec *record) {
	_ = s.o.DB.View(func(tx *statefile.Tx) (err error) {
		t := tablesOf(tx)
		rec, err = t.byID(id)
		return err
	})
	return rec
}

// read stores a command as the cell has it, and reports whether the cell has it.
func (s *Service) read(ctx context.Context, vin, id string) bool {
	a, err := s.ask(ctx, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Look(ctx, vin, id) })
	if err != nil || a.Verdict != cell.OK {
		return false
	}
	s.takeOver(&a)
	return true
}

// fetch stores a new command of a vehicle that is connected here, unless that has been done. If the vehicle has no other
// command, fetch requests the permission to send it in the same call.
func (s *Service) fetch(ctx context.Context, vin, id string) {
	if s.local(id) == nil && !s.sendAlone(ctx, vin, id) {
		s.read(ctx, vin, id)
	}
}

// sendAlone requests the permission to send a command that this gateway does not know yet, if it is the vehicle's only one:
// nothing goes before it, and the window has room. It reports whether the permission was given.
func (s *Service) sendAlone(ctx context.Context, vin, id string) bool {
	by, mine := s.o.Cell.Owner(vin)
	if _, ready := s.o.Deliverer.Ready(vin); !ready || !mine || !slices.Equal(s.openOf(ctx, vin, math.MaxInt64), []string{id}) {
		return false
	}
	var a decision
	lost := false
	err := s.repeat(ctx, func() (err error) {
		a, err = s.ask(ctx, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Send(ctx, vin, id, by) })
		lost = lost || err != nil // the script may have run
		return err
	})
	if err != nil || a.Verdict != cell.OK {
		a.held.release()
		return false
	}
	s.maySend(&a, by.Epoch, lost)
	return true
}

// maySend stores the permission to send a command over the connection of an epoch, and then sends it. lost means that an earlier
// answer was lost.
func (s *Service) maySend(a *decision, epoch int64, lost bool) {
	s.write(a, func(b *batch) error {
		known, err := b.t.byID(a.Record.ID)
		if b.broken(err) != nil {
			return err
		}
		if known != nil {
			e := b.s.open.bySeq[known.Seq]
			lost = lost || e != nil && e.asked
		}
		first := (known == nil || known.State == Queued) && (a.Record.Sent == a.Now || lost)
		rec, err := b.adopt(&a.Answer, first, nil)
		if err != nil {
			return err
		}
		b.after = append(b.after, func() {
			if e := b.s.open.bySeq[rec.Seq]; e != nil {
				e.asking, e.asked, e.permit = false, false, epoch
				b.s.dirty(rec.VIN)
			}
		})
		return nil
	})
}

func (s *Service) takeOver(a *decision) {
	s.write(a, func(b *batch) error {
		_, err := b.adopt(&a.Answer, false, nil)
		return err
	})
}

// readVehicle stores the open commands of a vehicle that has connected here.
func (s *Service) readVehicle(vin string) {
	if _, mine := s.o.Cell.Owner(vin); !mine {
		return
	}
	s.turns.run(vin, func(ctx context.Context) { s.readBefore(ctx, vin, math.MaxInt64) })
}

// permit requests permission to send commands over this gateway's connection of the vehicle. They are sent once that is
// on disk, as with hand.
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

// readBefore stores commands accepted before a given one that this gateway does not know yet, so that it does not
// overtake them. It reports whether there were any.
func (s *Service) readBefore(ctx context.Context, vin string, number uint64) bool {
	found := false
	for _, id := range s.openOf(ctx, vin, number) {
		if s.local(id) == nil {
			found = s.read(ctx, vin, id) || found
		}
	}
	return found
}

// openOf lists the ids of a vehicle's open commands below a number, in order; none while Redis does not answer.
func (s *Service) openOf(ctx context.Context, vin string, below uint64) (ids []string) {
	c := s.o.Cell
	if c.Usable(c.Store.Slot(vin)) != nil {
		return nil
	}
	s.turns.at(ctx, func() { ids, _ = c.Store.OpenOf(ctx, vin, below, s.o.MaxQueued) })
	return ids
}

// permitted handles the answer to permit.
func (s *Service) permitted(seq uint64, epoch int64, a decision, err error) {
	answered := func(e *entry) { e.asking = false }
	switch {
	case err != nil:
	case a.Verdict == cell.OK:
		s.maySend(&a, epoch, false)
		return
	case a.Verdict == cell.Already:
		s.takeOver(&a)
	case a.Verdict == cell.Doubt:
		answered = func(e *entry) { e.asking, e.doubt = false, true } // it expires with the cause unknown
	case a.Verdict == cell.Missing:
		s.vanished(seq)
	}
	s.note(func() {
		if e := s.open.bySeq[seq]; e != nil {
			answered(e)
			e.asked = errors.Is(err, errUnknown) // the script may have run
			s.retry[e.rec.VIN] = struct{}{}
		}
	})
}

// vanished ends a command that the cell no longer knows: another gateway has published its end, and it is forgotten.
func (s *Service) vanished(seq uint64) {
	s.post(func(b *batch) error {
		rec, err := b.t.bySeq(seq)
		if b.broken(err) != nil || rec == nil || rec.State.Final() {
			return err
		}
		rec.State, rec.Cause, rec.Finished, rec.Done, rec.EndPublished = Expired, causeUnknown, b.now, b.passed, true
		b.done++
		b.after = append(b.after, func() { b.s.know(rec) })
		return b.broken(b.t.put(rec))
	})
}

// causeUnknown is the cause of an expired command that a gateway with lost memory may have sent.
const causeUnknown = "unknown"

// expireTogether has the cell end commands that are due by this gateway's clock. The cell's clock decides; the others
// are retried after a pause.
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

// endTogether asks the cell whether a command has expired.
func (s *Service) endTogether(ctx context.Context, vin, id string) cell.Verdict {
	a, err := s.change(ctx, vin, id, Expired, func(st *cell.Store) (cell.Answer, error) { return st.Expire(ctx, vin, id) })
	if err == nil && (a.Verdict == cell.OK || a.Verdict == cell.Already) {
		s.write(&a, func(b *batch) error {
			_, err := b.adopt(&a.Answer, a.Verdict == cell.OK, nil)
			return err
		})
	}
	return a.Verdict
}

// sweep looks for what no notice reported: expired commands of dead gateways, and commands for vehicles connected here.
func (s *Service) sweep(ctx context.Context) {
	slots := s.o.Cell.Store.Slots()
	part := min((slots+sweepsRound-1)/sweepsRound, slots)
	cursors, slot := map[int]uint64{}, 0
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var round []cell.Sweep
		for range part {
			if s.o.Cell.Usable(slot) == nil {
				round = append(round, cell.Sweep{Slot: slot, Cursor: cursors[slot]})
			}
			slot = (slot + 1) % slots
		}
		for some := range slices.Chunk(round, sweptAtOnce) {
			s.sweepSlots(ctx, some, cursors)
		}
	}
}

func (s *Service) sweepSlots(ctx context.Context, slots []cell.Sweep, cursors map[int]uint64) {
	s.o.Cell.Store.Sweep(ctx, slots, maxDue, overdue)
	for i := range slots {
		one := &slots[i]
		if one.Err != nil {
			continue // read in the next round
		}
		if cursors[one.Slot] = one.Cursor; one.Cursor == 0 {
			delete(cursors, one.Slot)
		}
		for _, n := range one.Due {
			s.turns.run(n.VIN, func(ctx context.Context) { s.endTogether(ctx, n.VIN, n.ID) })
		}
		for _, n := range one.Open {
			if _, mine := s.o.Cell.Owner(n.VIN); mine && s.local(n.ID) == nil {
				s.turns.run(n.VIN, func(ctx context.Context) { s.fetch(ctx, n.VIN, n.ID) })
			}
		}
	}
}

package command

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"cellgate/broker/cell"
)

// cancelTogether is Cancel with several gateways.
func (s *Service) cancelTogether(ctx context.Context, c Caller, vin, id string) (Command, error) {
	asked := Audited{Action: actionCancel, Caller: c, VIN: vin, ID: id, Outcome: outcomeCancelled}
	var out Command
	var a decision
	done := make(chan error, 1)
	err := s.enter(ctx, vin, &request{id: id, done: done, run: func(b *batch) (err error) {
		out, err = b.cancelled(&a.Answer)
		if b.fail != nil {
			return b.fail
		}
		asked.Name = out.Name
		b.after = append(b.after, func() { b.s.audit(asked, err) })
		return err
	}}, func(ctx, waits context.Context) (h *held, err error) {
		a, err = s.askCancel(ctx, waits, c, vin, id)
		return a.held, err
	})
	if err == nil {
		err = wait(ctx, done)
	}
	if undecided(err) { // asked and out may still be written to
		s.audit(Audited{Action: actionCancel, Caller: c, VIN: vin, ID: id}, err)
		return Command{}, err
	}
	if err != nil && ctx.Err() != nil {
		return Command{}, err
	}
	return out, err
}

// askCancel asks the cell to cancel a command. It returns the verdict notPermitted if the caller may not cancel it.
func (s *Service) askCancel(ctx, waits context.Context, c Caller, vin, id string) (decision, error) {
	if c.May != nil {
		a, err := s.ask(waits, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Look(ctx, vin, id) })
		a.held.release()
		if err != nil || a.Verdict != cell.OK {
			return a, err
		}
		if !c.May(vin, a.Record.Fields[fieldName]) {
			a.Verdict = notPermitted
			return a, nil
		}
	}
	return s.ask(waits, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Cancel(ctx, vin, id) })
}

// notPermitted is not a script's verdict: the caller may not cancel this command.
const notPermitted cell.Verdict = "not-permitted"

// cancelled stores the result of a cancellation.
func (b *batch) cancelled(a *cell.Answer) (Command, error) {
	switch a.Verdict {
	case cell.Missing:
		return Command{}, ErrNotFound
	case notPermitted:
		return Command{Name: a.Record.Fields[fieldName]}, errNotPermitted
	case cell.Doubt:
		return Command{}, fmt.Errorf("%w: a gateway that lost its state may have sent it", ErrNotCancellable)
	}
	rec, err := b.adopt(a, a.Verdict == cell.OK, nil)
	if err != nil {
		return Command{}, err
	}
	if rec.State != Cancelled {
		err = fmt.Errorf("%w: it is %s", ErrNotCancellable, rec.State)
	}
	return b.t.view(rec), err
}

// getTogether reads a command from the cell. What is final in the state file is final everywhere.
func (s *Service) getTogether(ctx context.Context, vin, id string) (Command, error) {
	c := s.cell()
	if err := c.usable(vin, id); err != nil {
		return s.getLocal(vin, id, err)
	}
	waits, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	if vin == "" {
		var err error
		if !s.turns.at(waits, func() { vin, err = c.Store.VehicleOf(ctx, id) }) {
			err = errWaited
		}
		switch {
		case err != nil:
			return s.getLocal("", id, &unknownError{ID: id, Why: err})
		case vin == "" && s.local(id) == nil:
			return Command{}, ErrNotFound
		case vin == "": // Redis has lost which vehicle it is for
			vin = s.local(id).VIN
		}
	}
	a, err := s.ask(waits, vin, id, func(st *cell.Store) (cell.Answer, error) { return st.Look(ctx, vin, id) })
	switch {
	case err != nil:
		return s.getLocal(vin, id, err)
	case a.Verdict == cell.Missing:
		return Command{}, ErrNotFound
	}
	var out Command
	keeps := State(a.Record.State).Final() || s.local(id) != nil
	if !keeps {
		a.held.release()
		return s.shownOf(&a.Record), nil
	}
	// An end is on disk before it is reported.
	err = s.submitRequest(ctx, &request{holds: []*held{a.held}, run: func(b *batch) error {
		rec, err := b.adopt(&a.Answer, false, nil)
		if err == nil {
			out = b.t.view(rec)
		}
		return err
	}})
	if err != nil {
		return Command{}, err
	}
	return out, nil
}

// getLocal answers from the state file while Redis is away: only a final state is certain.
func (s *Service) getLocal(vin, id string, unknown error) (Command, error) {
	cmd, err := s.localView(vin, id)
	if err == nil && cmd.State.Final() {
		return cmd, nil
	}
	return Command{}, unknown
}

func (s *Service) cell() *Cell { return s.o.Cell }

// maxLooked bounds the commands read from Redis for one page.
const maxLooked = 4096

// listTogether is List with several gateways: open commands first, then ended ones, latest first.
func (s *Service) listTogether(ctx context.Context, f Filter) (page []Command, cursor string, err error) {
	at, err := placeOf(f)
	if err != nil {
		return nil, "", err
	}
	if f.VIN != "" && !at.Ended {
		more := false
		if page, at, more, err = s.listOpenOf(ctx, f, at); err != nil || more {
			return page, cursorOf(at), err
		}
	}
	for looked := 0; looked < maxLooked && len(page) < f.Limit; {
		if f.State != "" && !f.State.Final() && at.Ended {
			return page, "", nil
		}
		found, seen, next, err := s.readPage(ctx, f, at, f.Limit-len(page))
		if err != nil {
			return nil, "", &unknownError{Why: err}
		}
		if next == nil {
			return page, "", nil
		}
		at, looked, page = *next, looked+seen, append(page, found...)
	}
	return page, cursorOf(at), nil
}

// readPage reads up to most commands from at on, and returns the matching ones, how many it has read, and the place
// where the list continues, nil at its end.
func (s *Service) readPage(ctx context.Context, f Filter, at cell.Place, most int) (found []Command, seen int, next *cell.Place, err error) {
	st := s.o.Cell.Store
	names, next, err := st.Page(ctx, at, most)
	if err != nil || next == nil {
		return nil, 0, nil, err
	}
	seen = len(names)
	if f.VIN != "" {
		names = slices.DeleteFunc(names, func(n cell.Name) bool { return n.VIN != f.VIN })
	}
	records, err := st.Records(ctx, names)
	for i := range records {
		r := &records[i]
		ending := !next.Ended && State(r.State).Final() // listed with those that ended
		if !ending && (f.State == "" || r.State == string(f.State)) {
			found = append(found, s.shownOf(r))
		}
	}
	return found, seen, next, err
}

// listOpenOf lists a vehicle's open commands, with the place where the list continues if there are more.
func (s *Service) listOpenOf(ctx context.Context, f Filter, at cell.Place) (page []Command, next cell.Place, more bool, err error) {
	below := uint64(math.MaxInt64)
	if at.Score > 0 {
		below = uint64(at.Score)
	}
	st := s.o.Cell.Store
	ids, err := st.OpenOf(ctx, f.VIN, below, s.o.MaxQueued)
	more = len(ids) > f.Limit
	var names []cell.Name
	for _, id := range slices.Backward(ids[max(0, len(ids)-f.Limit):]) {
		names = append(names, cell.Name{VIN: f.VIN, ID: id})
	}
	var records []cell.Record
	if err == nil {
		records, err = st.Records(ctx, names)
	}
	if err != nil {
		return nil, at, false, &unknownError{Why: err}
	}
	next = cell.Place{Ended: true}
	for i := range records {
		r := &records[i]
		if f.State == "" || r.State == string(f.State) {
			page = append(page, s.shownOf(r))
		}
		if more {
			next = cell.Place{Score: int64(r.Number), Member: f.VIN} //nolint:gosec // counted from 1
		}
	}
	return page, next, more, nil
}

// shownOf returns a command of the cell as the API shows it.
func (s *Service) shownOf(r *cell.Record) Command {
	rec := (&batch{s: s}).recordOf(r, r.Expires, nil)
	return rec.view([]byte(r.Fields[fieldPayload]), []byte(r.Result))
}

func cursorOf(p cell.Place) string {
	text, _ := json.Marshal(p) // strings and numbers
	return base64.RawURLEncoding.EncodeToString(text)
}

// placeOf returns where a list begins.
func placeOf(f Filter) (p cell.Place, err error) {
	if f.Cursor == "" {
		return cell.Place{Ended: f.State.Final()}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(f.Cursor)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Slot < 0 {
		return p, fmt.Errorf("cursor=%s: %w", f.Cursor, errCursor)
	}
	return p, nil
}

package command

import "context"

// decider has the cell decide on a request, and returns the answer that the request writes, if any. ctx ends with the service; waits
// ends when the requester stops waiting.
type decider func(ctx, waits context.Context) (*held, error)

// enter has the cell decide on a request in its vehicle's turn (with several gateways), then passes it to the loop.
// decide may be nil.
func (s *Service) enter(ctx context.Context, vin string, r *request, decide decider) error {
	switch {
	case s.o.Cell == nil || decide == nil:
		return s.inbox.put(ctx, r)
	case !r.must:
		return s.enterBriefly(ctx, vin, r, decide)
	}
	if err := s.inbox.reserve(ctx, r); err != nil {
		return err
	}
	if !s.turns.must(vin, func(ctx context.Context) {
		h, err := decide(ctx, ctx)
		s.handIn(r, h, err)
	}) {
		r.release()
		return errClosed
	}
	return nil
}

// handIn passes a decided request to the loop.
func (s *Service) handIn(r *request, h *held, err error) {
	r.holds = append(r.holds, h)
	switch {
	case err != nil:
		r.end(err)
	case !s.inbox.add(r):
		r.end(errClosed)
	}
}

// enterBriefly is enter for a request whose requester waits. It fails at once while Redis is known to decide nothing,
// and after Cell.Patience if the vehicle's turn does not come; the request is not begun after that. If the decision
// comes in time, enterBriefly waits until it is on disk; a later decision is still written and published as an event.
func (s *Service) enterBriefly(ctx context.Context, vin string, r *request, decide decider) error {
	if err := s.cell().usable(vin, r.id); err != nil {
		r.finish(err)
		return nil
	}
	room := ctx
	if r.done == nil { // MQTT: a published command is decided even if the connection ends
		ctx = context.WithoutCancel(ctx)
	}
	waits, cancel := context.WithTimeout(ctx, s.cell().Patience)
	if r.done != nil {
		room = waits
	}
	if err := s.inbox.reserve(room, r); err != nil {
		cancel()
		if r.done == nil {
			return err
		}
		r.finish(&unknownError{ID: r.id, Why: errWaited})
		return nil
	}
	one := &turn{}
	stop := context.AfterFunc(waits, func() {
		s.turns.drop(vin, one)
		r.finish(&unknownError{ID: r.id, Why: errWaited})
		cancel()
	})
	one.run = func(ctx context.Context) {
		h, err := decide(ctx, waits)
		stop()
		cancel()
		s.handIn(r, h, err)
	}
	if !s.turns.add(vin, one) {
		stop()
		cancel()
		r.release()
		return errClosed
	}
	return nil
}

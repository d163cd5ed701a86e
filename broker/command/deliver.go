package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
)

// pumpAll sends what it can to the vehicles in pending.
func (s *Service) pumpAll() {
	for vin := range s.pending {
		s.pump(vin)
	}
	clear(s.pending)
}

// pump gives the queue's commands to the delivery engine, in order, except those already acknowledged or outstanding. A
// command not marked on disk as handed over is marked first, and everything after it waits for that.
func (s *Service) pump(vin string) {
	l := s.open.queues[vin]
	if l == nil {
		return
	}
	version, ready := s.o.Deliverer.Ready(vin)
	if !ready {
		s.takeBack(l)
		return
	}
	var by cell.Connection
	if s.o.Cell != nil {
		if by, ready = s.o.Cell.Owner(vin); !ready {
			s.retry[vin] = struct{}{} // connected, but the cell has not answered yet
			return
		}
	}
	now, outstanding := s.o.Clock.Now().UnixMilli(), l.outstanding()
	var hand []uint64
	for _, e := range l.entries {
		if !e.pending(now) {
			continue
		}
		if s.life(e.rec) <= 0 {
			s.retry[vin] = struct{}{}
			continue
		}
		if outstanding+len(hand) >= s.o.Inflight {
			break
		}
		if len(hand) > 0 || !s.mayLeave(e, by) {
			hand = append(hand, e.rec.Seq)
			continue
		}
		if l.failures.Load() != l.seen {
			l.skipped = true
			break
		}
		if err := s.send(l, e, version); err != nil {
			l.failures.Add(1)
			s.undelivered(l, e.rec.Seq, e.attempt, err)
			break
		}
		outstanding++
	}
	switch {
	case len(hand) == 0:
	case s.o.Cell != nil:
		s.permit(vin, hand, by)
	default:
		s.post(func(b *batch) error { return b.hand(hand, true) })
	}
}

// mayLeave reports whether the permission to send the command is on disk.
func (s *Service) mayLeave(e *entry, by cell.Connection) bool {
	if s.o.Cell != nil {
		return e.permit == by.Epoch
	}
	return e.rec.Handed
}

// takeBack unmarks commands that this process marked as handed over but did not send because the vehicle left: they can
// be cancelled again. The change is on disk before pump sees the queue again.
func (s *Service) takeBack(l *sendQueue) {
	var seqs []uint64
	for _, e := range l.entries {
		if e.rec.State == Queued && e.rec.Handed && e.handedHere && !e.outstanding {
			seqs = append(seqs, e.rec.Seq)
		}
	}
	if len(seqs) > 0 {
		s.post(func(b *batch) error { return b.hand(seqs, false) })
	}
}

// life returns how long a command may still be sent. After a stop of the gateway this can end before the command
// expires: the length of the stop is known only from the wall clock, which may be wrong. If the clock is corrected, the
// command may be sent again.
func (s *Service) life(r *record) time.Duration {
	c := s.o.Clock
	return min(time.UnixMilli(r.until()).Sub(c.Now()), time.UnixMilli(r.latest()).Sub(c.Latest()))
}

func (s *Service) send(l *sendQueue, e *entry, version byte) error {
	r := e.rec
	payload, props, err := s.content(r, version)
	if err != nil {
		return err
	}
	e.attempt++
	seq, attempt := r.Seq, e.attempt
	d := &message.Delivery{
		Urgent:  r.Urgent,
		Topic:   "v1/" + r.VIN + "/cmd/" + r.ID + "/" + r.Name,
		Payload: payload,
		Life:    s.life(r),
		Props: message.Properties{User: []message.UserProperty{
			{Name: userIssuedAt, Value: Stamp(r.Created).String()},
			{Name: userExpiresAt, Value: Stamp(r.Expires).String()},
		}},
		Sent:  func() { s.left(seq) },
		Acked: func(code byte) { s.acknowledged(r, attempt, code) },
		Failed: func(err error) {
			l.failures.Add(1)
			s.undelivered(l, seq, attempt, err)
		},
	}
	if r.JSON {
		d.Props.ContentType, d.Props.UTF8Payload = "application/json", true
	}
	props.deliver(&d.Props)
	s.traced(r, &d.Props)
	e.outstanding = true
	if err := s.o.Deliverer.Deliver(r.VIN, d); err != nil {
		e.outstanding = false
		return err
	}
	return nil
}

// traced adds the command's traceparent to the properties sent to the vehicle.
func (s *Service) traced(r *record, to *message.Properties) {
	c, sampled := s.o.Sampling.Command(r.ID, trace.Parent(to.User))
	if !sampled {
		return
	}
	to.User = slices.DeleteFunc(to.User, func(u message.UserProperty) bool { return u.Name == trace.ParentProperty })
	to.User = append(to.User, message.UserProperty{Name: trace.ParentProperty, Value: c.CommandSpan(r.ID, string(Sent)).String()})
}

// envelope is the payload for MQTT 3.1.1 vehicles, which have no message expiry and no user properties.
type envelope struct {
	ID            string          `json:"id"`
	Name          string          `json:"name"`
	IssuedAt      Stamp           `json:"issued_at"`
	ExpiresAt     Stamp           `json:"expires_at"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty"`
}

// content reads a command's payload and properties as sent to a client of that MQTT version.
func (s *Service) content(r *record, version byte) (data []byte, props properties, err error) {
	err = s.o.DB.View(func(tx *statefile.Tx) (err error) {
		t := tablesOf(tx)
		data = append(data, t.payload().Get(key(r.Seq))...)
		props, err = t.properties(r)
		return err
	})
	if err != nil {
		return nil, props, fmt.Errorf("reading the payload: %w", err)
	}
	if s.o.Envelope && version < 5 {
		data, err = r.envelope(data)
	}
	return data, props, err
}

func (r *record) envelope(data []byte) ([]byte, error) {
	e := envelope{ID: r.ID, Name: r.Name, IssuedAt: Stamp(r.Created), ExpiresAt: Stamp(r.Expires)}
	if r.JSON {
		e.Payload = data
	} else {
		e.PayloadBase64 = data
	}
	wrapped, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("wrapping the payload: %w", err)
	}
	return wrapped, nil
}

// left records that a command was sent. With several gateways, permit has recorded that before.
func (s *Service) left(seq uint64) {
	if s.o.Cell == nil {
		s.post(func(b *batch) error { return b.step(seq, Sent, "") })
	}
}

// acknowledged handles a PUBACK.
func (s *Service) acknowledged(r *record, attempt int, code byte) {
	if s.o.Cell == nil {
		s.post(func(b *batch) error { return b.acked(r.Seq, attempt, code) })
		return
	}
	p := &report{vin: r.VIN, id: r.ID, status: Delivered, at: s.o.Clock.Wall().UnixMilli()}
	if code >= 0x80 {
		p.status, p.cause = Rejected, refusedBy(code)
	}
	s.turns.run(r.VIN, func(ctx context.Context) { s.reportNow(ctx, p, func() { s.released(r.Seq, attempt) }) })
}

// refusedBy returns the cause for a PUBACK with an error code.
func refusedBy(code byte) string { return fmt.Sprintf("puback_0x%02x", code) }

// acked applies a PUBACK. A reason code of 0x80 and above is a refusal (MQTT 5, 3.4.2.1).
func (b *batch) acked(seq uint64, attempt int, code byte) error {
	b.after = append(b.after, func() { b.s.released(seq, attempt) })
	if code >= 0x80 {
		return b.step(seq, Rejected, refusedBy(code))
	}
	return b.step(seq, Delivered, "")
}

// released records that the delivery engine has finished with a command, so that the queue can continue.
func (s *Service) released(seq uint64, attempt int) {
	if e := s.open.bySeq[seq]; e != nil && e.attempt == attempt {
		e.outstanding = false
		s.dirty(e.rec.VIN)
	}
}

// undelivered handles a command that the delivery engine gave up. It may run on any goroutine.
func (s *Service) undelivered(l *sendQueue, seq uint64, attempt int, cause error) {
	s.post(func(b *batch) error {
		e := b.s.open.bySeq[seq]
		stale := e == nil || e.attempt != attempt
		b.after = append(b.after, func() { b.s.failureHandled(l, e, stale) })
		switch {
		case stale:
			return nil
		case errors.Is(cause, ErrUndeliverable) && b.s.o.Cell != nil:
			p := &report{vin: e.rec.VIN, id: e.rec.ID, status: Rejected, cause: reason(cause), at: b.now}
			b.s.turns.run(p.vin, func(ctx context.Context) { b.s.reportNow(ctx, p, func() {}) })
			return nil
		case errors.Is(cause, ErrUndeliverable):
			return b.step(seq, Rejected, reason(cause))
		case e.handedHere:
			// It was not sent: this process marked it, and Sent would have come first.
			return b.hand([]uint64{seq}, false)
		}
		return nil
	})
}

// failureHandled records that a failure has been handled. The queue is retried after a pause, or at once if the failure held it
// back.
func (s *Service) failureHandled(l *sendQueue, e *entry, stale bool) {
	l.seen++
	if !stale {
		e.outstanding = false
		s.retry[e.rec.VIN] = struct{}{}
	}
	if l.skipped && len(l.entries) > 0 {
		l.skipped = false
		s.dirty(l.entries[0].rec.VIN)
	}
}

// reason returns at most 200 bytes of err for Cause.
func reason(err error) string {
	text := strings.TrimLeft(strings.TrimPrefix(err.Error(), ErrUndeliverable.Error()), ": \n")
	return strings.ToValidUTF8(text[:min(len(text), 200)], "")
}

package command

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cellgate/broker/cell"
)

// Cell decides about commands if several gateways serve a cell: Redis, with the scripts of package cell. A confirmed
// decision is written to the state file and only then published or sent.
type Cell struct {
	Store *cell.Store
	// Node is this gateway's name.
	Node string
	// Owner returns the connection by which this gateway owns a vehicle; false if it has none or has not claimed it
	// yet.
	Owner func(vin string) (cell.Connection, bool)
	// Usable returns nil unless Redis is known to be away or the slot to be closed.
	Usable func(slot int) error
	// Closed is called with a slot that a script found closed.
	Closed func(slot int)
	// Patience bounds how long a request waits for its decision. Afterwards nothing more is requested for it, and the
	// answer is "unknown, repeat".
	Patience time.Duration
}

// unknownError means that the outcome of a request is unknown. It wraps errUnknown.
type unknownError struct {
	ID  string
	Why error
}

// Error includes the id with which to ask again.
func (e *unknownError) Error() string {
	if e.ID == "" {
		return fmt.Sprintf("%v: %v", errUnknown, e.Why)
	}
	return fmt.Sprintf("%v, repeat with this id: %s (%v)", errUnknown, e.ID, e.Why)
}

// Unwrap returns errUnknown.
func (e *unknownError) Unwrap() error { return errUnknown }

// errWaited means that a request was not decided in time.
var errWaited = errors.New("redis did not decide in time")

// errSlotClosed means that commands of the slot are not decided at present.
var errSlotClosed = errors.New("not every gateway of the cell has restored its state in Redis")

// usable returns an error if Redis cannot decide about a vehicle's commands.
func (c *Cell) usable(vin, id string) error {
	err := c.Usable(c.Store.Slot(vin))
	if err == nil && c.Store.Slots() > 1 {
		err = c.Usable(c.Store.IDSlot(id))
	}
	if err != nil {
		return &unknownError{ID: id, Why: err}
	}
	return nil
}

// answered turns an answer without a decision into an error.
func (c *Cell) answered(slot int, id string, a cell.Answer, err error) (cell.Answer, error) {
	switch {
	case err != nil:
		return a, &unknownError{ID: id, Why: err}
	case a.Verdict == cell.Closed:
		c.Closed(slot)
		return a, &unknownError{ID: id, Why: errSlotClosed}
	}
	return a, nil
}

// ask sends a question to Redis, unless Redis is known not to answer or waits has ended. Its answer is held.
func (s *Service) ask(waits context.Context, vin, id string, question func(st *cell.Store) (cell.Answer, error)) (a decision, err error) {
	c := s.o.Cell
	slots := c.slotsOf(vin, id)
	began := s.unwritten.begin(slots)
	if err := c.usable(vin, id); err != nil {
		return a, err
	}
	if !s.turns.at(waits, func() { a.Answer, err = question(c.Store) }) {
		return a, &unknownError{ID: id, Why: errWaited}
	}
	if a.Answer, err = c.answered(slots[0], id, a.Answer, err); err == nil && !s.unwritten.take(slots, began, &a) {
		err = &unknownError{ID: id, Why: errOffered}
	}
	return a, err
}

// longestRepeat is the longest pause between tries. While Redis is known to be away a try costs nothing, and once it
// is back commands should not wait.
const longestRepeat = 500 * time.Millisecond

// repeat retries until there is an answer; it returns errClosed when the service closes.
func (s *Service) repeat(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if !errors.Is(err, errUnknown) {
			return err
		}
		if !again(ctx, n, longestRepeat) {
			return errClosed
		}
	}
}

// change has the cell change a command, and insists. If an earlier answer was lost, the retry answers Already for this
// gateway's own change, and change turns that into OK.
func (s *Service) change(ctx context.Context, vin, id string, to State, question func(st *cell.Store) (cell.Answer, error)) (decision, error) {
	var a decision
	lost := false
	err := s.repeat(ctx, func() (err error) {
		a, err = s.ask(ctx, vin, id, question)
		lost = lost || err != nil
		return err
	})
	if err == nil && lost && a.Verdict == cell.Already && (a.Record.State == string(to) || a.Record.State == string(Late) && a.Record.Outcome == string(to)) {
		a.Verdict = cell.OK
	}
	return a, err
}

// decide has the cell decide on a valid request: the answer is r.decided, or the error says why not. When waits has
// ended nothing more is requested: a caller that gave up must not find its command accepted later.
func (s *Service) decide(ctx, waits context.Context, r *Request) error {
	if err := s.admitHere(r); err != nil {
		return err
	}
	c, digest := s.o.Cell, digestText(r.digest())
	if err := c.usable(r.VIN, r.ID); err != nil {
		return err
	}
	slots := c.slotsOf(r.VIN, r.ID)
	began := s.unwritten.begin(slots)
	var reserved cell.Answer
	var err error
	if !s.turns.at(waits, func() { reserved, err = c.Store.Reserve(ctx, r.VIN, r.ID, digest, r.TTL) }) {
		return &unknownError{ID: r.ID, Why: errWaited}
	}
	if reserved, err = c.answered(c.Store.IDSlot(r.ID), r.ID, reserved, err); err != nil {
		return err
	}
	if reserved.Verdict == cell.Conflict {
		return fmt.Errorf("%w: %s", errConflict, r.ID)
	}
	o := s.offered(r, digest)
	o.Reserved = reserved.Server
	if o.Created == 0 && !r.came.IsZero() {
		o.Created = reserved.Now - time.Since(r.came).Milliseconds() // Redis may run the script long after it was sent
	}
	a, err := s.ask(waits, r.VIN, r.ID, func(st *cell.Store) (cell.Answer, error) { return st.Accept(ctx, o) })
	if err == nil && s.unwritten.begin(slots) != began { // the reservation may be lost
		a.held.release()
		err = &unknownError{ID: r.ID, Why: errOffered}
	}
	if err != nil {
		return err
	}
	switch a.Verdict {
	case cell.OK, cell.Already:
		if r.decided, r.ours = &a, s.ours(&a.Answer); r.ours {
			s.passOn(r)
		}
		return nil
	}
	a.held.release()
	switch a.Verdict {
	case cell.Conflict:
		return fmt.Errorf("%w: %s", errConflict, r.ID)
	case cell.Expired:
		return errExpired
	case cell.Full:
		return fmt.Errorf("%w: %d are open", errQueueFull, s.o.MaxQueued)
	}
	return &unknownError{ID: r.ID, Why: fmt.Errorf("redis answered %q", a.Verdict)}
}

// offered returns a request as Redis stores it.
func (s *Service) offered(r *Request, digest string) cell.Offered {
	o := cell.Offered{VIN: r.VIN, ID: r.ID, Digest: digest, TTL: r.TTL, MaxOpen: s.o.MaxQueued, Fields: s.fieldsOf(r)}
	if !r.At.IsZero() {
		o.Created = r.At.UnixMilli()
	}
	return o
}

// Fields of a command that no script reads.
const (
	fieldName    = "name"
	fieldPayload = "payload"
	fieldProps   = "props" // JSON
	fieldOrigin  = "origin"
	fieldBy      = "by"
	fieldTTL     = "ttl" // ms
	fieldJSON    = "json"
	fieldUrgent  = "urgent"
	fieldNode    = "node" // the gateway that accepted it
	set          = "1"
)

func (s *Service) fieldsOf(r *Request) map[string]string {
	f := map[string]string{
		fieldName: r.Name, fieldOrigin: r.Origin, fieldBy: r.By, fieldNode: s.o.Cell.Node,
		fieldTTL: strconv.FormatInt(r.TTL.Milliseconds(), 10), fieldPayload: string(r.Payload),
	}
	if r.JSON {
		f[fieldJSON] = set
	}
	if r.Urgent {
		f[fieldUrgent] = set
	}
	if !r.props.empty() {
		props, _ := json.Marshal(r.props) // strings and bytes
		f[fieldProps] = string(props)
	}
	return f
}

func digestText(d []byte) string { return base64.RawURLEncoding.EncodeToString(d) }

// decideFor has the cell decide on a request whose sender learns the result only by events. It insists; the reason for
// a refusal is stored in found.
func (s *Service) decideFor(ctx context.Context, r *Request, found *error) error {
	if *found == nil {
		*found = s.repeat(ctx, func() error { return s.decide(ctx, ctx, r) })
	}
	if errors.Is(*found, errClosed) {
		return errClosed
	}
	return nil
}

// decideAll has the cell decide on requests that every gateway reads, in order per vehicle. It insists, also when this
// gateway's own bounds are reached: another gateway may accept the request.
func (s *Service) decideAll(ctx context.Context, all []asked) error {
	if s.o.Cell == nil {
		return nil
	}
	done := make(chan error, len(all))
	for i := range all {
		a := &all[i]
		if !s.turns.run(a.VIN, func(ctx context.Context) { done <- s.decideOne(ctx, a) }) {
			return errClosed
		}
	}
	var failed error
	for range all {
		if err := wait(ctx, done); err != nil && failed == nil {
			failed = err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return failed
}

func (s *Service) decideOne(ctx context.Context, a *asked) error {
	r := &a.Request
	if a.found == nil {
		a.found = s.repeat(ctx, func() error {
			err := s.decide(ctx, ctx, r)
			if errors.Is(err, errBusy) {
				return &unknownError{ID: r.ID, Why: err}
			}
			return err
		})
	}
	switch {
	case errors.Is(a.found, errClosed):
		return errClosed
	case a.found == nil:
		if a.found = s.refusedBefore(&r.decided.Answer); a.found == nil {
			if a.elsewhere = !r.ours; a.elsewhere {
				r.decided.held.release()
			}
			return nil
		}
		r.decided.held.release()
		r.decided, r.ours = nil, true
		return nil
	case !reportable(r, a.found):
		return nil
	}
	return s.repeat(ctx, func() error { return s.refuseOnce(ctx, a) })
}

// refusedBefore returns why this gateway refused a command before it was killed: Redis has the refusal, this disk does not,
// and it was not published. It returns nil for any other command.
func (s *Service) refusedBefore(a *cell.Answer) error {
	r := &a.Record
	accepted := r.Number != 0
	if accepted || r.Fields[fieldNode] != s.o.Cell.Node || s.local(r.ID) != nil {
		return nil
	}
	switch State(r.State) {
	case Expired:
		return errExpired
	case Rejected:
		return fmt.Errorf("%w: %d are open", errQueueFull, s.o.MaxQueued)
	}
	return nil
}

// refuseOnce records a refusal in the cell, so that no gateway accepts the request and one publishes it.
func (s *Service) refuseOnce(ctx context.Context, a *asked) error {
	r := &a.Request
	state, why := refusal(a.found)
	if state == Expired && s.o.Clock.Wall().Sub(r.At) > s.o.KeepFor {
		a.elsewhere = true // its outcome may be forgotten by now
		return nil
	}
	got, err := s.ask(ctx, r.VIN, r.ID, func(st *cell.Store) (cell.Answer, error) {
		return st.Refuse(ctx, s.offered(r, digestText(r.digest())), string(state), why)
	})
	got.held.release() // a refusal is an event, not a record
	// This gateway may have recorded it, but lost the answer or was killed before it wrote its own record.
	mine := got.Verdict == cell.Already && got.Record.State == string(state) && got.Record.Fields[fieldNode] == s.o.Cell.Node && (a.unanswered || s.local(r.ID) == nil)
	r.ours = got.Verdict == cell.OK || mine // also when a caller asks for it before this gateway has published it
	a.elsewhere, a.unanswered = !r.ours, a.unanswered || err != nil
	return err
}

// ours reports whether a command was accepted now, or earlier by this gateway without an answer or a record on its
// disk.
func (s *Service) ours(a *cell.Answer) bool {
	return a.Verdict == cell.OK || a.Record.State == string(Queued) && a.Record.Fields[fieldNode] == s.o.Cell.Node && s.local(a.Record.ID) == nil
}

// admitHere checks a request against this gateway's bounds; the bound per vehicle is the cell's.
func (s *Service) admitHere(r *Request) error {
	st := s.stat.Load()
	sender := (&record{Origin: r.Origin, By: r.By}).sender()
	switch {
	case s.open.ofSender(sender) >= max(1, s.o.MaxOpen/2):
		return fmt.Errorf("%w: %d of this sender are open", errBusy, s.o.MaxOpen/2)
	case st.Open >= s.o.MaxOpen:
		return fmt.Errorf("%w: %d are open at this gateway", errBusy, s.o.MaxOpen)
	case s.o.Publish != nil && !s.o.DropOldEvents && st.Waiting >= s.o.MaxEvents:
		return fmt.Errorf("%w: %d changes of state wait for Kafka", errBusy, s.o.MaxEvents)
	}
	return nil
}

// reportNow has the cell decide on a vehicle's report, stores the result, and then calls after.
func (s *Service) reportNow(ctx context.Context, p *report, after func()) {
	if a, err := s.reportTogether(ctx, p); err == nil {
		s.write(&a, func(b *batch) error {
			err := b.reported(p, &a.Answer)
			b.after = append(b.after, after)
			return err
		})
	}
}

// reportTogether has the cell decide on a vehicle's report. It insists.
func (s *Service) reportTogether(ctx context.Context, p *report) (decision, error) {
	said := cell.Said{Status: string(p.status), Cause: p.cause, At: time.UnixMilli(p.at), Payload: p.payload}
	return s.change(ctx, p.vin, p.id, p.status, func(st *cell.Store) (cell.Answer, error) { return st.Report(ctx, p.vin, p.id, said) })
}

// reported stores the result of a vehicle's report.
func (b *batch) reported(p *report, a *cell.Answer) error {
	switch a.Verdict {
	case cell.Missing:
		return b.ignore("unknown")
	case cell.Already:
		noted, last := p.noted(&a.Record), p.last(&a.Record)
		if noted && last {
			if known, err := b.t.byID(p.id); b.broken(err) != nil {
				return err
			} else if known == nil || news(known, &a.Record) || known.State.Final() && !known.published() {
				break // Redis has this report, and this disk does not or has only read it: the gateway died in between, and the change is unpublished
			}
		}
		if !noted || last { // else a later report follows in the journal
			if _, err := b.adopt(a, false, nil); err != nil {
				return err
			}
		}
		return b.ignore("repeated")
	}
	_, err := b.adopt(a, true, p.payload)
	return err
}

// noted reports whether Redis has this report, by its time.
func (p *report) noted(r *cell.Record) bool {
	late := r.State == string(Late)
	switch {
	case p.status == Delivered:
		return r.Delivered == p.at
	case p.status == Accepted:
		return r.Accepted == p.at || late && r.LateAccepted == p.at
	case late:
		return r.Late == p.at
	}
	return r.Done == p.at
}

// last reports whether the command's state is that of this report.
func (p *report) last(r *cell.Record) bool {
	return r.State == string(p.status) || r.State == string(Late) && r.Outcome == string(p.status)
}

package command

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
)

// batch is the changes of one transaction. Changes to memory wait in after until the transaction is on disk. Reads go
// to the transaction and see its own changes.
type batch struct {
	s   *Service
	t   *tables
	now int64 // milliseconds, by the wall clock
	// passed and latest are Now and Latest of the gateway's clock, in ms.
	passed, latest int64
	// added counts the commands that this batch creates and memory does not have yet, per vehicle and in total.
	added    map[string]int
	bySender map[string]int
	total    int
	events   int // change of the number of waiting events
	answers  int // change of the number of waiting outcomes
	done     int // change of the number of final commands
	after    []func()
	fail     error // the store failed: the whole batch is discarded
}

func newBatch(s *Service, tx *statefile.Tx) *batch {
	c := s.o.Clock
	return &batch{
		s: s, t: tablesOf(tx), added: map[string]int{}, bySender: map[string]int{},
		now: c.Wall().UnixMilli(), passed: c.Now().UnixMilli(), latest: c.Latest().UnixMilli(),
	}
}

// broken records and returns a failure of the store, which ends the batch.
func (b *batch) broken(err error) error {
	if err != nil && b.fail == nil {
		b.fail = err
	}
	return err
}

// create accepts a command. For a known id with the same content it returns that command.
func (b *batch) create(r *Request) (Command, bool, error) {
	if r.decided != nil {
		return b.accepted(r)
	}
	known, err := b.t.byID(r.ID)
	if b.broken(err) != nil {
		return Command{}, false, err
	}
	digest := r.digest()
	if known != nil {
		if string(known.Digest) != string(digest) {
			return Command{}, false, fmt.Errorf("%w: %s", errConflict, known.ID)
		}
		return b.t.view(known), false, nil
	}
	if !r.At.IsZero() && r.At.Add(r.TTL).UnixMilli() <= b.now {
		return Command{}, false, errExpired
	}
	rec := b.newRecord(r, digest)
	if err := b.admit(rec); err != nil {
		return Command{}, false, err
	}
	if err := b.insert(rec, r); err != nil {
		return Command{}, false, err
	}
	b.added[rec.VIN]++
	b.bySender[rec.sender()]++
	b.total++
	b.after = append(b.after, func() {
		b.s.open.add(rec, rec.Handed)
		b.s.entered(rec)
		b.s.dirty(rec.VIN)
	})
	return b.t.view(rec), true, nil
}

// admit checks a new command against the bounds.
func (b *batch) admit(rec *record) error {
	s, sender := b.s, rec.sender()
	switch {
	case s.open.ofVehicle(rec.VIN)+b.added[rec.VIN] >= s.o.MaxQueued:
		return fmt.Errorf("%w: %d are open", errQueueFull, s.o.MaxQueued)
	case s.open.ofSender(sender)+b.bySender[sender] >= max(1, s.o.MaxOpen/2):
		return fmt.Errorf("%w: %d of this sender are open", errBusy, s.o.MaxOpen/2)
	case len(s.open.bySeq)+b.total >= s.o.MaxOpen:
		return fmt.Errorf("%w: %d are open in the cell", errBusy, s.o.MaxOpen)
	case b.outboxFull():
		return fmt.Errorf("%w: %d changes of state wait for Kafka", errBusy, s.o.MaxEvents)
	}
	return nil
}

// outboxFull reports whether the outbox accepts only events of open commands.
func (b *batch) outboxFull() bool {
	o := &b.s.o
	return o.Publish != nil && !o.DropOldEvents && b.s.waiting+b.events >= o.MaxEvents
}

func (b *batch) newRecord(r *Request, digest []byte) *record {
	created := b.now
	if at := r.At.UnixMilli(); !r.At.IsZero() && at < created {
		created = at
	}
	left := created + r.TTL.Milliseconds() - b.now
	rec := &record{
		ID: r.ID, VIN: r.VIN, Name: r.Name, State: Queued, Origin: r.Origin, By: r.By, Digest: digest, JSON: r.JSON, Urgent: r.Urgent,
		Props: !r.props.empty(), Respond: r.props.ResponseTopic != "",
		TTL: r.TTL.Milliseconds(), Created: created, Expires: created + r.TTL.Milliseconds(),
		Until: b.passed + left, Latest: b.latest + left,
	}
	// A command that can be sent at once is marked as handed over in the same transaction.
	if r.ready && left > 0 {
		l := b.s.open.queues[r.VIN]
		rec.Handed = l == nil && b.added[r.VIN] < b.s.o.Inflight || l != nil && l.room(b.s.o.Inflight, b.added[r.VIN], r.Urgent)
	}
	return rec
}

func (b *batch) insert(rec *record, r *Request) error {
	seq, err := b.t.meta().NextSequence()
	if b.broken(err) != nil {
		return err
	}
	rec.Seq = seq
	if err := b.broken(b.t.put(rec)); err != nil {
		return err
	}
	if err := b.broken(b.t.payload().Put(key(seq), r.Payload)); err != nil {
		return err
	}
	if rec.Props {
		value, err := json.Marshal(r.props)
		if b.broken(err) != nil {
			return err
		}
		if err := b.broken(b.t.props().Put(key(seq), value)); err != nil {
			return err
		}
	}
	if err := b.broken(b.t.ids().Put([]byte(rec.ID), key(seq))); err != nil {
		return err
	}
	return b.event(rec, nil)
}

// move changes a command's state if the transition is allowed, at a time in ms. It reports whether it did. It changes
// rec, which must have been loaded by this batch.
func (b *batch) move(rec *record, to State, at int64, cause string, result []byte) (bool, error) {
	if !next(rec.State, to) {
		return false, nil
	}
	wasFinal := rec.State.Final()
	at = max(at, rec.lastAt())
	rec.State, rec.Cause = to, cause
	switch {
	case to == Late:
		rec.Late = at
	case to == Sent:
		rec.Sent = at
	case to == Delivered:
		rec.Delivered = at
	case to == Accepted:
		rec.Accepted = at
	case to.Final() && !wasFinal:
		rec.Finished, rec.Done = at, b.passed
		b.done++
	}
	rec.EndPublished = to.Final() && rec.Number != 0 // should several gateways serve the cell again
	if err := b.broken(b.t.put(rec)); err != nil {
		return false, err
	}
	if len(result) > 0 {
		if err := b.broken(b.t.result().Put(key(rec.Seq), result)); err != nil {
			return false, err
		}
	}
	if err := b.event(rec, result); err != nil {
		return false, err
	}
	kept := *rec
	b.after = append(b.after, func() { b.s.moved(&kept) })
	return true, nil
}

// step moves an open command by its sequence. It ignores a missing command and a transition that is not allowed.
func (b *batch) step(seq uint64, to State, cause string) error {
	rec, err := b.t.bySeq(seq)
	if b.broken(err) != nil || rec == nil {
		return err
	}
	_, err = b.move(rec, to, b.now, cause, nil)
	return err
}

// causeNotSent is the cause of an expired command that was never sent.
const causeNotSent = "not_sent"

// expire ends an overdue command; the cause says how far it came.
func (b *batch) expire(seq uint64) error {
	rec, err := b.t.bySeq(seq)
	if b.broken(err) != nil || rec == nil {
		return err
	}
	cause := causeNotSent
	switch {
	case rec.State == Accepted, rec.State == Delivered:
		cause = "no_result"
	case rec.State == Sent, rec.Handed:
		cause = "not_acknowledged"
	}
	_, err = b.move(rec, Expired, b.now, cause, nil)
	return err
}

// cancel ends a command that was never sent.
func (b *batch) cancel(may func(vin, name string) bool, vin, id string) (cmd Command, name string, err error) {
	rec, err := b.t.byID(id)
	if b.broken(err) != nil {
		return Command{}, "", err
	}
	switch {
	case rec == nil || rec.VIN != vin:
		return Command{}, "", ErrNotFound
	case may != nil && !may(vin, rec.Name):
		return Command{}, rec.Name, errNotPermitted
	case rec.State == Cancelled:
		return b.t.view(rec), rec.Name, nil
	case rec.Handed || rec.State != Queued:
		return b.t.view(rec), rec.Name, fmt.Errorf("%w: it is %s", ErrNotCancellable, shown(rec))
	}
	if _, err := b.move(rec, Cancelled, b.now, "", nil); err != nil {
		return Command{}, rec.Name, err
	}
	return b.t.view(rec), rec.Name, nil
}

// shown describes a state in words: a queued command that was handed over may already have been sent.
func shown(r *record) string {
	if r.State == Queued && r.Handed {
		return "on its way"
	}
	return string(r.State)
}

// report applies a vehicle's report. Repeated and contradicting reports change nothing.
func (b *batch) report(p *report) error {
	rec, err := b.t.byID(p.id)
	if b.broken(err) != nil {
		return err
	}
	switch {
	case rec == nil || rec.VIN != p.vin:
		return b.ignore("unknown")
	case rec.State == Queued && !rec.Handed:
		return b.ignore("not_sent")
	}
	to := p.status
	if rec.State == Expired || rec.State == Late {
		if rec.State == Late && rec.Outcome != Accepted {
			return b.ignore("repeated")
		}
		if rec.Outcome == to {
			return b.ignore("repeated")
		}
		rec.Outcome, to = p.status, Late
	}
	went, err := b.move(rec, to, p.at, p.cause, p.payload)
	if err == nil && !went {
		return b.ignore("repeated")
	}
	return err
}

func (b *batch) ignore(reason string) error {
	b.after = append(b.after, func() { b.s.metrics.ignored.WithLabelValues(reason).Inc() })
	return nil
}

// hand marks commands as about to be sent, or unmarks them. They are sent only after the mark is on disk.
func (b *batch) hand(seqs []uint64, handed bool) error {
	for _, seq := range seqs {
		rec, err := b.t.bySeq(seq)
		if b.broken(err) != nil {
			return err
		}
		if rec == nil || rec.State != Queued || rec.Handed == handed {
			continue
		}
		rec.Handed = handed
		if err := b.broken(b.t.put(rec)); err != nil {
			return err
		}
		b.after = append(b.after, func() {
			if e := b.s.open.bySeq[rec.Seq]; e != nil {
				e.rec, e.handedHere = rec, handed
				if handed { // unmarked ones wait for their retry
					b.s.dirty(rec.VIN)
				}
			}
		})
	}
	return nil
}

// eventValue is the value of a record on vehicle.command-results.
type eventValue struct {
	ID           string          `json:"id"`
	VIN          string          `json:"vin"`
	Name         string          `json:"name"`
	State        State           `json:"state"`
	At           string          `json:"at"`
	Cause        string          `json:"cause,omitempty"`
	Outcome      State           `json:"outcome,omitempty"`
	Result       json.RawMessage `json:"result,omitempty"`
	ResultBase64 string          `json:"result_base64,omitempty"`
	By           string          `json:"by,omitempty"`
	Origin       string          `json:"origin"`
}

// event adds the record's current state to the outbox.
func (b *batch) event(rec *record, result []byte) error {
	at := b.now
	switch rec.State {
	case Queued:
		at = rec.Created
	case Sent:
		at = rec.Sent
	case Delivered:
		at = rec.Delivered
	case Accepted:
		at = rec.Accepted
	case Late:
		at = max(at, rec.lastAt())
	default:
		at = rec.Finished
	}
	value, raw := splitJSON(result)
	v := eventValue{
		ID: rec.ID, VIN: rec.VIN, Name: rec.Name, State: rec.State, At: Stamp(at).String(), Cause: rec.Cause,
		Outcome: rec.Outcome, Result: value, ResultBase64: base64.StdEncoding.EncodeToString(raw),
		By: rec.By, Origin: rec.Origin,
	}
	if err := b.respond(rec, &v); err != nil {
		return err
	}
	props, err := b.t.properties(rec)
	if b.broken(err) != nil {
		return err
	}
	return b.emit(Change{Command: rec.view(nil, nil), Parent: trace.Parent(props.User)}, v)
}

func (b *batch) emit(c Change, v eventValue) error {
	o := &b.s.o
	if o.Publish == nil && o.Watch == nil {
		return nil
	}
	value, err := json.Marshal(v)
	if b.broken(err) != nil {
		return err
	}
	if o.Watch != nil {
		c.Value = value
		b.after = append(b.after, func() { o.Watch(c) })
	}
	if o.Publish == nil {
		return nil
	}
	if b.s.o.DropOldEvents && b.s.waiting+b.events >= b.s.o.MaxEvents {
		if err := b.dropOldest(); err != nil {
			return err
		}
	}
	n, err := b.t.events().NextSequence()
	if b.broken(err) != nil {
		return err
	}
	vin := c.Command.VIN
	data := make([]byte, 0, 1+len(vin)+len(value))
	data = append(data, byte(len(vin)))
	data = append(append(data, vin...), value...)
	b.events++
	return b.broken(b.t.events().Put(key(n), data))
}

func (b *batch) dropOldest() error {
	k, _ := b.t.events().Cursor().First()
	if k == nil {
		return nil
	}
	b.events--
	b.after = append(b.after, func() { b.s.metrics.dropped.WithLabelValues("full").Inc() })
	return b.broken(b.t.events().Delete(k))
}

// published removes events that Kafka has. Some may have been dropped meanwhile.
func (b *batch) published(ns []uint64) error {
	for _, n := range ns {
		k := key(n)
		if b.t.events().Get(k) == nil {
			continue
		}
		if err := b.broken(b.t.events().Delete(k)); err != nil {
			return err
		}
		b.events--
	}
	return nil
}

// maxForget bounds the commands forgotten in one transaction, to keep it short.
const maxForget = 1000

var errMore = errors.New("more to forget")

// replayWindow is how long a command's id is remembered after its time to live has ended, even if KeepFor is shorter: a
// producer may send its record again.
const replayWindow = 10 * time.Minute

// retain forgets final commands beyond the bounds of age and count, earliest end first. Within the replay window a
// command is forgotten only because of the count, and this is counted. It returns errMore when it stopped at maxForget.
func (b *batch) retain() error {
	gone, early, err := b.outdated()
	if err != nil {
		return err
	}
	for _, k := range gone {
		rec, err := b.t.bySeq(number(k[8:]))
		if b.broken(err) != nil {
			return err
		}
		if rec != nil {
			if err := b.broken(b.t.forget(rec)); err != nil {
				return err
			}
		}
		if err := b.broken(b.t.done().Delete(k)); err != nil {
			return err
		}
		b.done--
	}
	b.after = append(b.after, func() { b.s.metrics.early.Add(float64(early)) })
	if len(gone) == maxForget {
		return errMore
	}
	return nil
}

// outdated returns the keys of final commands beyond the bounds, maxForget at most, and how many of them are within the
// replay window.
func (b *batch) outdated() (gone [][]byte, early int, err error) {
	keepFrom := b.passed - b.s.o.KeepFor.Milliseconds()
	over := b.s.kept + b.done - b.s.o.KeepMax
	c := b.t.done().Cursor()
	for k, _ := c.First(); k != nil && len(gone) < maxForget; k, _ = c.Next() {
		rec, err := b.t.bySeq(number(k[8:]))
		if b.broken(err) != nil {
			return nil, 0, err
		}
		asked := rec != nil && rec.until()+replayWindow.Milliseconds() > b.passed
		if (int64(number(k)) >= keepFrom || asked) && len(gone) >= over {
			break
		}
		if asked {
			early++
		}
		gone = append(gone, bytes.Clone(k)) // a write may move the page of k
	}
	return gone, early, nil
}

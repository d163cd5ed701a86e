package command

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"cellgate/broker/cell"
)

// adopt writes a command as the cell decided it, or as it was read, to the state file unless the file has a later
// state. It returns the stored command. decided means that this gateway requested the decision and publishes it; word
// is the vehicle's result in that case.
func (b *batch) adopt(a *cell.Answer, decided bool, word []byte) (*record, error) {
	known, err := b.t.byID(a.Record.ID)
	if b.broken(err) != nil {
		return nil, err
	}
	rec := b.recordOf(&a.Record, a.Now, known)
	if known != nil && !news(known, &a.Record) {
		if !decided {
			return known, b.readTold(known, a)
		}
		return known, b.publishRead(known, rec, word)
	}
	rec.EndPublished = rec.State.Final() && (decided || a.Record.Told)
	if err := b.broken(b.keep(rec, &a.Record, known == nil)); err != nil {
		return nil, err
	}
	if rec.State.Final() && (known == nil || !known.State.Final()) {
		b.done++
	}
	if decided {
		b.endPublished(rec) // before the notice of the end: those who then read it learn this too
	}
	b.after = append(b.after, func() {
		if decided {
			b.s.entered(rec)
			b.s.notifyEnd(rec) // not before: this gateway hears it too, and would read what it is writing
		}
		if known == nil && !rec.State.Final() {
			b.s.open.add(rec, false)
			b.s.dirty(rec.VIN)
			return
		}
		b.s.know(rec)
	})
	if !decided {
		return rec, nil
	}
	return rec, b.event(rec, word)
}

// readTold notes that the end of a command is published, if that was not known.
func (b *batch) readTold(known *record, a *cell.Answer) error {
	if known.EndPublished || !a.Record.Told || string(known.State) != a.Record.State {
		return nil
	}
	known.EndPublished = true
	return b.broken(b.t.put(known))
}

// publishRead publishes a decision of this gateway whose command was read in its present state, known, before.
func (b *batch) publishRead(known, rec *record, word []byte) error {
	if rec.State.Final() {
		b.endPublished(rec)
		if known.EndPublished {
			return nil
		}
		known.EndPublished = true
		if err := b.broken(b.t.put(known)); err != nil {
			return err
		}
	}
	b.after = append(b.after, func() { b.s.entered(rec) })
	return b.event(rec, word)
}

// endPublished notifies the cell, once the batch is on disk, that no other gateway needs to publish an end that it has decided. It
// knows the vehicle's own results from the journal of the vehicle's gateway.
func (b *batch) endPublished(rec *record) {
	if rec.State == Cancelled || rec.State == Expired || rec.State == Late {
		b.after = append(b.after, func() { b.s.notify(cell.Notice{What: cell.NoticePublished, VIN: rec.VIN, ID: rec.ID}) })
	}
}

// news reports whether r is later than the known state.
func news(known *record, r *cell.Record) bool {
	was, is := cell.Rank(string(known.State), known.Cause), cell.Rank(r.State, r.Cause)
	return is > was || is == was && (known.Outcome == Accepted && r.Outcome != string(Accepted) || known.Number != r.Number || known.Gen > r.Gen)
}

// recordOf converts a command to the state file's form. now is Redis' time of the answer: only durations are converted
// to this gateway's clock.
func (b *batch) recordOf(r *cell.Record, now int64, known *record) *record {
	ttl, _ := strconv.ParseInt(r.Fields[fieldTTL], 10, 64)
	digest, _ := base64.RawURLEncoding.DecodeString(r.Digest)
	props := r.Fields[fieldProps]
	rec := &record{
		ID: r.ID, VIN: r.VIN, Name: r.Fields[fieldName], State: State(r.State), Cause: r.Cause, Origin: r.Fields[fieldOrigin], By: r.Fields[fieldBy],
		Digest: digest, JSON: r.Fields[fieldJSON] != "", Urgent: r.Fields[fieldUrgent] != "", Props: props != "", TTL: ttl,
		Created: r.Created, Expires: r.Expires, Sent: r.Sent, Delivered: r.Delivered, Accepted: r.Accepted, Finished: r.Done,
		LateAccepted: r.LateAccepted, Late: r.Late, Outcome: State(r.Outcome), Number: r.Number, Gen: r.Gen, Node: r.Fields[fieldNode],
	}
	rec.orderTimes()
	if props != "" {
		var p properties
		rec.Respond = json.Unmarshal([]byte(props), &p) == nil && p.ResponseTopic != ""
	}
	left := r.Expires - now
	rec.Until, rec.Latest = b.passed+left, b.latest+left
	if known != nil {
		rec.Seq, rec.Until, rec.Latest, rec.Done = known.Seq, known.until(), known.latest(), known.Done
	}
	if rec.State.Final() && rec.Done == 0 {
		rec.Done = b.passed
	}
	return rec
}

// keep writes a record with payload, properties and result.
func (b *batch) keep(rec *record, r *cell.Record, created bool) error {
	if created {
		seq, err := b.t.meta().NextSequence()
		if err != nil {
			return err
		}
		rec.Seq = seq
	}
	k := key(rec.Seq)
	if err := b.t.put(rec); err != nil {
		return err
	}
	if r.Result != "" {
		if err := b.t.result().Put(k, []byte(r.Result)); err != nil {
			return err
		}
	}
	if !created {
		return nil
	}
	if err := b.t.payload().Put(k, []byte(r.Fields[fieldPayload])); err != nil {
		return err
	}
	if rec.Props {
		if err := b.t.props().Put(k, []byte(r.Fields[fieldProps])); err != nil {
			return err
		}
	}
	return b.t.ids().Put([]byte(rec.ID), k)
}

// accepted stores a command that the cell has accepted, now or earlier.
func (b *batch) accepted(r *Request) (Command, bool, error) {
	rec, err := b.adopt(&r.decided.Answer, r.ours, nil)
	if err != nil {
		return Command{}, false, err
	}
	if r.sending {
		b.after = append(b.after, func() { b.s.asks(rec.Seq) })
	}
	return b.t.view(rec), r.ours, nil
}

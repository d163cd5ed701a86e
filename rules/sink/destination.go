package sink

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cellgate/broker/wal"
	"cellgate/rules/engine"
)

// Bounds of what is in flight to a destination from its log: low until it has taken something.
const (
	probeMessages, probeBytes = 16, 256 << 10
	drainMessages, drainBytes = 512, 1 << 20
)

// destination is a parked destination, with the log of its messages.
type destination struct {
	l   *parkedStore
	via *pipeline // whose sink sends
	key destKey
	id  uint64 // names the log's directory

	// Guarded by the parkedStore's mutex. Entries of the log count from 1: those up to cursor are settled, those up to read are
	// settled or in flight, written is the last.
	queue                 []*parking // not in the log yet
	cursor, read, written uint64
	why                   string
	missing               bool // according to the sink
	since                 time.Time
	mark                  uint64       // via's taken when this one was parked
	spills                time.Time    // from when on messages that cannot be parked are dropped; zero: not yet
	oldest                int64        // approximate ReceivedAt of the oldest message
	lowSet                uint32       // lowest index of a rule set
	size                  int64        // of the log
	first, end            wal.Position // of the log
	flying                []*flight    // in flight, in log order

	// Owned by run; dlog and pos change under the mutex.
	dlog        *wal.Log
	pos         wal.Position
	lastErr     string // last logged
	lost        lostRecords
	flyingBytes int
	proven      bool // it has taken something
}

// partition reports whether the destination is part of a topic.
func (d *destination) partition() bool { return strings.Contains(d.key.name, "/") }

// step does the destination's pending work.
func (d *destination) step(ctx context.Context) {
	d.land()
	d.store(ctx)
	d.send()
	k := d.key
	d.l.mu.Lock()
	done := len(d.queue) == 0 && d.read == d.written
	d.l.mu.Unlock()
	if !done {
		return
	}
	if d.via.parker != nil && !d.l.parts(k) {
		d.via.parker.Open(k.name, func() bool { return d.l.opened(k) })
	}
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	if len(d.queue) == 0 && d.cursor == d.written {
		d.l.endLocked(d)
	}
}

// store writes the queue to the log.
func (d *destination) store(ctx context.Context) {
	defer func() { d.lost.report(d.l.log) }()
	for ctx.Err() == nil {
		d.l.mu.Lock()
		if len(d.queue) == 0 {
			d.l.mu.Unlock()
			return
		}
		m := d.queue[0]
		d.l.mu.Unlock()
		e, err := d.entryOf(ctx, m)
		if errors.Is(err, errRecordLost) {
			d.lost.add(m.t.seq)
			d.next()
			m.owner.settle(m.t, dropped, JournalLost)
			continue
		}
		if err == nil {
			err = d.take(m, &e)
		}
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, errHeld) {
				d.l.logFailed(d, err)
			}
			return
		}
	}
}

// errHeld means that a message cannot be parked and waits.
var errHeld = errors.New("the sink accepts nothing")

// take writes a message to the log, or drops it if there is no space. On an error it stays in the queue.
func (d *destination) take(m *parking, e *parkedEntry) error {
	held, why := d.l.room(d, e.dead, parkedSize(e))
	switch {
	case why == nil:
		return d.write(e, func() { d.queue = d.queue[1:]; m.owner.parkedNow(m.t) })
	case held && errors.Is(why, errMany):
		d.next()
		d.giveBack(m, e)
		return nil
	case held:
		return errHeld
	}
	d.next()
	if e.dead {
		m.owner.settle(m.t, dropped, ParkedFull)
	} else {
		m.t.Refused(fmt.Errorf("%w: %s", why, d.why))
	}
	return nil
}

// giveBack returns a message that cannot be parked to its sink: during an outage it waits in the window.
func (d *destination) giveBack(m *parking, e *parkedEntry) {
	t := m.t
	t.stays = true
	if m.dead {
		t.to, t.dead = &deadLetter{g: &m.owner.refusals, r: refusal{t: m.t, reason: m.reason}}, true
	}
	f := flight{d: d, e: *e}
	f.hand(d.via, t)
}

// next removes the first message from the queue.
func (d *destination) next() {
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	d.queue = d.queue[1:]
}

// entryOf returns the log entry of a message.
func (d *destination) entryOf(ctx context.Context, m *parking) (parkedEntry, error) {
	rec, err := d.l.src.find(ctx, d.l.env.journal, m.t.seq)
	if err != nil {
		return parkedEntry{}, err
	}
	return parkedEntry{
		sink: m.owner.name, dead: m.dead || m.t.dead, many: m.t.many, seq: m.t.seq, set: m.t.set, reason: m.reason,
		decision: m.t.decision(), record: *rec,
	}, nil
}

func parkedSize(e *parkedEntry) int { return 256 + len(e.record.Payload) + len(e.record.Topic) }

// write appends an entry to the log and calls then before a checkpoint can see the entry.
func (d *destination) write(e *parkedEntry, then func()) error {
	if err := d.open(); err != nil {
		return err
	}
	l := d.l
	e.number = d.written + 1 // only run changes it
	l.buf = e.append(l.buf[:0])
	if err := d.dlog.Append(l.buf, e.number); err != nil {
		return err
	}
	size, end := d.dlog.Bytes(), d.dlog.End()
	l.mu.Lock()
	defer l.mu.Unlock()
	d.size, d.end = size, end
	d.noteLocked(e)
	then()
	l.env.metrics.parked.WithLabelValues(d.via.name).Inc()
	return nil
}

// noteLocked counts a log entry.
func (d *destination) noteLocked(e *parkedEntry) {
	if d.written == d.cursor {
		d.oldest = e.record.ReceivedAt
	}
	d.written = e.number
	d.lowSet = min(d.lowSet, e.set)
}

// open creates the log.
func (d *destination) open() error {
	if d.dlog != nil {
		return nil
	}
	l := d.l
	id := l.lastID + 1
	dlog, err := wal.OpenLog(l.fs, l.logDir(id), parkedAt(id, d.key, l.epoch), wal.Position{}, wal.Position{}, l.limits.segmentBytes())
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastID = id
	d.adoptLocked(id, dlog)
	return nil
}

// adoptLocked sets the destination's log. No method of the log is called under the parkedStore's mutex, because it may wait for
// the disk.
func (d *destination) adoptLocked(id uint64, dlog *wal.Log) {
	d.id, d.dlog, d.size = id, dlog, dlog.Bytes()
	d.first, d.pos, d.end = dlog.Start(), dlog.Start(), dlog.End()
}

func (l *parkedStore) logDir(id uint64) string { return filepath.Join(l.dir, fmt.Sprintf("%016x", id)) }

// parkedAt returns the identity of a destination's log.
func parkedAt(id uint64, k destKey, epoch uint64) wal.Identity {
	return wal.Identity{Name: fmt.Sprintf("%s/%016x %s", parkedLogs, id, k), Epoch: epoch}
}

// send sends entries of the log as far as the window allows.
func (d *destination) send() {
	if d.dlog == nil || d.l.parts(d.key) {
		return
	}
	for d.space() {
		data, next, ok, err := d.dlog.Read(d.pos)
		var e parkedEntry
		if err == nil && ok {
			e, err = readParked(slices.Clone(data), &d.l.decoder)
		}
		if err != nil {
			d.l.logFailed(d, err)
		}
		if err != nil || !ok {
			return
		}
		owner := d.l.env.byName[e.sink]
		if owner != nil && e.seq > owner.cursor() {
			return // it is repeated if the process ends now
		}
		if d.passTo(next); e.number > d.cursor {
			d.launch(&e, owner, len(data))
		}
	}
}

// passTo moves the read position in the log.
func (d *destination) passTo(pos wal.Position) {
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	d.pos = pos
}

// space reports whether there is an entry to send and room for it.
func (d *destination) space() bool {
	messages, bytes := probeMessages, probeBytes
	if d.proven {
		messages, bytes = drainMessages, drainBytes
	}
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	return d.read < d.written && len(d.flying) < messages && d.flyingBytes < bytes
}

func (d *destination) launch(e *parkedEntry, owner *pipeline, size int) {
	f := &flight{d: d, e: *e, owner: owner, size: size}
	d.flyingBytes += size
	d.l.mu.Lock()
	if len(d.flying) == 0 {
		d.oldest = e.record.ReceivedAt
	}
	d.read = e.number
	d.flying = append(d.flying, f)
	d.l.mu.Unlock()
	if owner == nil { // its sink is no longer configured, and has no account
		f.settle(Ticket{}, dropped, "")
		return
	}
	f.deliver(d.via)
}

// land settles the finished entries at the front of those in flight.
func (d *destination) land() {
	for {
		d.l.mu.Lock()
		f, deadReason := d.nextLocked()
		if f != nil && !f.retry.IsZero() && !time.Now().Before(f.retry) {
			f.done, f.moved, f.retry = true, f.errorTopicLocked(), time.Time{}
		}
		done := f != nil && f.done
		d.l.mu.Unlock()
		switch {
		case deadReason != "":
			f.e.dead, f.e.reason = true, deadReason
			f.deliver(d.l.env.byName[deadLetterSink])
		case !done:
			return
		case f.moved != "":
			if !d.move(f) {
				return
			}
		default:
			d.l.mu.Lock()
			d.popLocked(f)
			if d.l.mu.Unlock(); f.o == delivered || (f.o == deadLettered && !f.isDeadLetter) {
				d.proven = true
			}
		}
	}
}

// nextLocked returns the entry in flight that comes next: one that becomes a dead letter, with the reason, or else the
// first; nil if there is none.
func (d *destination) nextLocked() (f *flight, deadReason string) {
	for _, g := range d.flying {
		if deadReason = g.deadReason; deadReason != "" {
			g.deadReason, g.isDeadLetter = "", true
			return g, deadReason
		}
	}
	if len(d.flying) == 0 {
		return nil, ""
	}
	return d.flying[0], ""
}

// popLocked settles the first entry in flight.
func (d *destination) popLocked(f *flight) {
	if d.dropLocked(f); f.owner != nil {
		if d.l.env.trace.On() {
			f.owner.traceSettled(f.e.seq, f.e.decision.Rule, f.e.decision.Target, f.o, f.reason)
		}
		f.owner.resolve(f.e.seq, f.e.many, f.o, f.reason)
	}
}

func (d *destination) dropLocked(f *flight) {
	d.flying = d.flying[1:]
	d.flyingBytes -= f.size
	d.cursor = f.e.number
	if len(d.flying) > 0 {
		d.oldest = d.flying[0].e.record.ReceivedAt
	}
}

// move appends the dead letter of a parked message to the log of its error topic, which is parked too. It returns false
// if that must wait.
func (d *destination) move(f *flight) bool {
	l := d.l
	l.mu.Lock()
	to := l.destLocked(l.env.byName[deadLetterSink], f.moved, f.why)
	l.mu.Unlock()
	held, why := l.room(to, true, parkedSize(&f.e))
	switch {
	case why == nil || to == d:
		e := f.e
		if err := to.write(&e, func() { d.dropLocked(f) }); err != nil {
			l.logFailed(to, err)
			return false
		}
		return true
	case held:
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f.o, f.reason = dropped, ParkedFull
	d.popLocked(f)
	return true
}

// describeLocked returns the destination's description.
func (d *destination) describeLocked() Parked {
	p := Parked{
		Sink: d.key.sink, Destination: d.key.name, Since: d.since, Reason: d.why, Bytes: d.size,
		Messages: d.written - d.cursor + uint64(len(d.queue)),
	}
	if d.oldest > 0 && d.written > d.cursor {
		p.Oldest = time.UnixMilli(d.oldest).UTC()
	}
	return p
}

// flight is a parked message in flight.
type flight struct {
	d     *destination
	e     parkedEntry
	owner *pipeline // nil if the sink no longer exists
	size  int
	topic string // the topic last sent to; owned by run

	// Guarded by the parkedStore's mutex.
	done         bool
	o            outcome
	reason       string
	moved        string    // the error topic to whose log it moves
	why          error     // the reason for moved
	deadReason   string    // why it must become a dead letter
	retry        time.Time // when a refused dead letter is queued again, after the others
	isDeadLetter bool      // it was sent as a dead letter
}

// deliver renders the message, or its dead letter, and passes it to the sink.
func (f *flight) deliver(via *pipeline) {
	e := &f.e
	f.hand(via, Ticket{to: f, set: e.set, rule: e.decision.Rule, target: e.decision.Target, dead: e.dead, seq: e.seq})
}

// hand renders the message and delivers it with a ticket.
func (f *flight) hand(via *pipeline, t Ticket) {
	l, e := f.d.l, &f.e
	set, err := l.env.sets.get(e.set)
	if err != nil {
		l.log.Error("parked message can no longer be rendered", "seq", e.seq, "sink", e.sink, "err", err)
		t.Dropped(Corruption)
		return
	}
	out := &l.form.out
	if e.dead && e.reason != "" {
		err = set.RenderDeadLetter(e.decision, e.reason, &e.record, out)
	} else {
		err = set.Render(e.decision, &e.record, out)
	}
	if errors.Is(err, engine.ErrNoDeadLetter) {
		t.Dropped(OnErrorNone)
		return
	}
	if err != nil {
		t.Refused(err)
		return
	}
	f.topic = out.Topic
	l.form.message = Message{Record: e.decision.Record(&e.record), Out: out, idPrefix: l.env.idPrefix}
	via.sink.Deliver(&l.form.message, t)
}

// settle implements settler.
func (f *flight) settle(t Ticket, o outcome, reason string) {
	if o == delivered {
		f.d.l.env.deliveries.delivered(t.set, t.rule)
	}
	if o == delivered {
		f.d.l.env.deliveries.delivered(f.e.set, f.e.decision.Rule)
	}
	f.d.l.mu.Lock()
	f.done, f.o, f.reason = true, o, reason
	f.d.l.mu.Unlock()
	f.d.l.signal()
}

// refused implements settler.
func (f *flight) refused(t Ticket, err error) {
	if t.dead {
		f.d.l.mu.Lock()
		f.d.why, f.retry = err.Error(), time.Now().Add(deadLetterRetry)
		f.d.l.mu.Unlock()
		return
	}
	f.d.l.env.noteRefused(f.e.sink, err)
	f.d.l.mu.Lock()
	f.deadReason = err.Error()
	f.d.l.mu.Unlock()
	f.d.l.signal()
}

// park implements settler. A message from a destination's log stays with the sink; its dead letter may be parked.
func (f *flight) park(t Ticket, dest string, why error) bool {
	l := f.d.l
	l.mu.Lock()
	defer l.signal()
	defer l.mu.Unlock()
	if !f.isDeadLetter {
		return false
	}
	f.done, f.moved, f.why = true, dest, why
	return true
}

// errorTopicLocked returns the topic for a dead letter.
func (f *flight) errorTopicLocked() string {
	if f.isDeadLetter {
		return f.topic
	}
	return f.d.key.name
}

// abandoned implements settler.
func (f *flight) abandoned(uint64) bool { return false }

package session

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
)

// load restores sessions, queues, identifiers and retained messages from the state file. It runs before the manager is
// shared, so it takes no locks.
func (m *Manager) load() error {
	if err := m.db.Update(func(tx *statefile.Tx) error { return createBuckets(tx, m.o.Issuer) }); err != nil {
		return fmt.Errorf("open session state: %w", err)
	}
	err := m.db.View(func(tx *statefile.Tx) error {
		l := loader{m: m, root: tx.Bucket([]byte(rootBucket)), now: m.now(), last: m.journal.Last()}
		return l.load()
	})
	if err != nil {
		return fmt.Errorf("load session state: %w", err)
	}
	return nil
}

func createBuckets(tx *statefile.Tx, issuer string) error {
	root, err := tx.CreateBucketIfNotExists([]byte(rootBucket))
	if err != nil {
		return err
	}
	for b := bucketSessions; b <= bucketMeta; b++ {
		if _, err := root.CreateBucketIfNotExists(b.name()); err != nil {
			return err
		}
	}
	meta := root.Bucket(bucketMeta.name())
	switch v := meta.Get([]byte("format")); {
	case len(v) == 1 && v[0] == format:
		return nil
	case len(v) == 1 && v[0] == formatByClient:
		if err := nameByIssuer(root, issuer); err != nil {
			return err
		}
	case v != nil:
		return fmt.Errorf("%w: format %x, this version knows %d", errFormat, v, format)
	}
	return meta.Put([]byte("format"), []byte{format})
}

type loader struct {
	m    *Manager
	root *statefile.Bucket
	now  int64
	last uint64 // the journal's end
	dec  message.Decoder
	// journal reports whether positions and sequences belong to the present journal.
	journal bool
}

func (l *loader) load() error {
	if err := l.position(); err != nil {
		return err
	}
	for _, step := range []func() error{l.sessions, l.queues, l.incoming, l.retained} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, st := range l.m.sessions.all("") {
		l.restore(st)
	}
	return nil
}

// JournalKnown returns what the state file knows about the journal: its epoch, and a sequence that it had reached, both
// 0 if nothing was fanned out yet. It is called before the journal, which may have lost its end, is opened. An error
// wraps errFormat when the value is not understood.
func JournalKnown(db *statefile.DB) (epoch, last uint64, err error) {
	err = db.View(func(tx *statefile.Tx) error {
		root := tx.Bucket([]byte(rootBucket))
		if root == nil {
			return nil
		}
		v := root.Bucket(bucketMeta.name()).Get(positionKey())
		if v == nil {
			return nil
		}
		var at mark
		epoch, at, err = decodePosition(v)
		last = max(at.fanned, at.settled)
		return err
	})
	return epoch, last, err
}

// decodePosition decodes the journal's epoch and the marks that write has stored.
func decodePosition(v []byte) (epoch uint64, at mark, err error) {
	if len(v) != 24 && len(v) != 32 {
		return 0, mark{}, fmt.Errorf("%w: position of %d bytes", errFormat, len(v))
	}
	at = mark{fanned: binary.BigEndian.Uint64(v[8:]), replay: binary.BigEndian.Uint64(v[16:])}
	if at.settled = at.replay; len(v) == 32 {
		at.settled = binary.BigEndian.Uint64(v[24:])
	}
	return binary.BigEndian.Uint64(v), at, nil
}

// position restores the fan-out position. Under another journal the fan-out starts at that journal's beginning.
func (l *loader) position() error {
	m := l.m
	v := l.root.Bucket(bucketMeta.name()).Get(positionKey())
	if v == nil {
		l.journal = true
		return nil
	}
	epoch, at, err := decodePosition(v)
	if err != nil {
		return err
	}
	if epoch != m.journal.Epoch() {
		m.log.Warn("the journal is not the one that the sessions belong to; fan-out starts at its beginning",
			"epoch", m.journal.Epoch(), "expected", epoch)
		return nil
	}
	l.journal = true
	m.fan.reached = min(at.fanned, l.last)
	m.fan.intake = min(at.settled, l.last)
	m.stored.fanned.Store(m.fan.reached)
	m.stored.replay.Store(min(at.replay, m.fan.reached))
	m.stored.settled.Store(m.fan.intake)
	return nil
}

// each calls fn for every key and value of a bucket, in order.
func (l *loader) each(b bucket, fn func(k, v []byte) error) error {
	return l.root.Bucket(b.name()).ForEach(fn)
}

func (l *loader) sessions() error {
	return l.each(bucketSessions, func(k, v []byte) error {
		st := &state{m: l.m, id: string(k), durable: true, file: inFile{saved: true}}
		owner, err := st.decode(v, &l.dec)
		if err != nil {
			return fmt.Errorf("session %q: %w", k, err)
		}
		if !st.vehicle {
			st.assign(l.m.shares.join(owner, math.MaxInt))
		}
		st.floor = min(st.floor, l.last) // the journal may have lost its tail
		if !l.journal {
			st.floor = 0
		}
		l.m.sessions.put(st)
		return nil
	})
}

func (l *loader) queues() error {
	inflight := l.root.Bucket(bucketInflight.name())
	return l.each(bucketQueue, func(k, v []byte) error {
		client, order, ok := splitQueueKey(k)
		st := l.m.sessions.get(client)
		if !ok || st == nil {
			return fmt.Errorf("%w: message %x belongs to no session", errFormat, k)
		}
		e, err := decodeEntry(v, &l.dec)
		if err != nil {
			return fmt.Errorf("message of session %q: %w", client, err)
		}
		e.order = order
		if at := inflight.Get(k); at != nil {
			if err := e.restoreInflight(k, at); err != nil {
				return err
			}
		}
		st.restoreEntry(e)
		return nil
	})
}

// restoreInflight restores the packet identifier and stage of a message in flight.
func (e *entry) restoreInflight(key, at []byte) error {
	if len(at) != 3 || stage(at[2]) < assigned || stage(at[2]) > released {
		return fmt.Errorf("%w: message %x in flight", errFormat, key)
	}
	e.id, e.stage, e.sent = binary.BigEndian.Uint16(at), stage(at[2]), true
	e.stored = e.stage
	return nil
}

// restoreEntry puts a loaded message back into its queue. Messages are loaded in order.
func (st *state) restoreEntry(e *entry) {
	if st.flow == nil {
		st.flow = &flow{}
	}
	f, size := st.flow, e.body.size()
	f.order = e.order
	f.bytes += size
	st.account(1, size)
	if e.stage == waiting {
		f.waiting.push(e)
		if at := e.body.expires; at != 0 && (f.expiring == 0 || at < f.expiring) {
			f.expiring = at
		}
		return
	}
	f.inflight = append(f.inflight, e)
	st.nextID = e.id
}

func (l *loader) incoming() error {
	if !l.journal {
		return nil
	}
	return l.each(bucketIncoming, func(k, v []byte) error {
		st := l.m.sessions.get(string(k))
		in, ok := decodeIncoming(v, l.last)
		if st == nil || !ok {
			return fmt.Errorf("%w: QoS 2 identifiers of %q", errFormat, k)
		}
		st.incoming = in
		return nil
	})
}

func (l *loader) retained() error {
	m := l.m
	return l.each(bucketRetained, func(k, v []byte) error {
		var rec message.Record
		if err := l.dec.Decode(v, 0, &rec); err != nil {
			return fmt.Errorf("%w: retained message of %q: %w", errFormat, k, err)
		}
		rec = rec.Clone()
		if string(retainedKey(rec.Topic)) != string(k) {
			return fmt.Errorf("%w: retained message of %q is on topic %q", errFormat, k, rec.Topic)
		}
		if at := m.expiry(&rec); at != 0 && at <= l.now {
			m.retained.dirty[rec.Topic] = nil
			return nil
		}
		m.keepRetained(&rec)
		return nil
	})
}

// restore activates a loaded session: its subscriptions go into the index, its will and end onto the timers. A session
// that was connected when the process died counts as disconnected from now on.
func (l *loader) restore(st *state) {
	m := l.m
	m.metrics.sessions.Inc()
	l.dropDeep(st)
	for _, sub := range st.subs {
		if _, plain, _ := message.SplitShare(sub.Filter); !st.own(plain) {
			m.index.Subscribe(st.id, sub, 0)
		}
	}
	if st.endsAt == 0 && st.expiry != MaxExpiry {
		st.since = m.wall()
		st.endsAt = deadline(l.now, st.expiry)
		st.changed(false)
	}
	st.permitted = m.passed(st.notAfter)
	if st.will != nil && st.willAt == 0 {
		st.willAt = l.now + min(st.will.Delay, st.expiry).Milliseconds()
		st.changed(false)
	}
	if m.o.Cell != nil && st.vehicle && st.willAt != 0 {
		st.willAt = max(st.willAt, l.now+willGrace.Milliseconds())
		m.willing = append(m.willing, st.id)
	}
	st.schedule()
}

// dropDeep removes filters that have more levels than MaxTopicLevels.
func (l *loader) dropDeep(st *state) {
	levels, before := l.m.bounds.Load().MaxTopicLevels, len(st.subs)
	st.share.unsubscribe(st.subs...)
	st.subs = slices.DeleteFunc(st.subs, func(s Subscription) bool { return message.Levels(s.Filter) > levels })
	if st.share != nil {
		st.share.subs.Add(places(st.subs...))
	}
	gone := before - len(st.subs)
	if gone == 0 {
		return
	}
	st.changed(false)
	for range gone {
		l.m.o.Rejected(rejectLevels)
	}
	l.m.log.Warn("stored subscriptions with too many levels dropped", "client", st.id, "subscriptions", gone, "max_levels", levels)
}

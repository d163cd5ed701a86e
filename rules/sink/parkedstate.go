package sink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
)

var (
	keyParked    = []byte("parked")          // []parkedState
	bucketJoined = []byte("parked_outcomes") // by sink and sequence: outcomes of a parked record's other messages
)

// parkedState is a parked destination's part of a checkpoint.
type parkedState struct {
	ID       uint64       `json:"id"` // of the log's directory
	Sink     string       `json:"sink"`
	Name     string       `json:"name"`
	Why      string       `json:"why"`
	Missing  bool         `json:"missing"`
	Since    int64        `json:"since"`   // ms since the Unix epoch
	Cursor   uint64       `json:"cursor"`  // number of the last settled entry
	Written  uint64       `json:"written"` // number of the last entry
	LogStart wal.Position `json:"log_start"`
	LogEnd   wal.Position `json:"log_end"`
}

// parkedSnapshot is the parkedStore at a boundary.
type parkedSnapshot struct {
	states []parkedState
	dests  []*destination // those of states
	ended  []*destination
	// notes are changed outcomes of parked records; nil removes one.
	notes map[string][]byte
}

// equal reports whether there is nothing new to store.
func (s *parkedSnapshot) equal(last *parkedSnapshot) bool {
	return slices.Equal(s.states, last.states) && len(s.ended) == 0 && len(s.notes) == 0
}

// captureSinks copies the sinks' accounts and their parked messages consistently.
func (d *Dispatcher) captureSinks(s *snapshot) {
	l := d.env.parkedStore
	l.mu.Lock()
	defer l.mu.Unlock()
	notes := map[string][]byte{}
	for i, p := range d.pipelines {
		p.capture(&s.sinks[i], d.o.Log.Error, notes)
	}
	s.parkedStore = l.captureLocked(notes)
}

func (l *parkedStore) captureLocked(notes map[string][]byte) parkedSnapshot {
	s := parkedSnapshot{ended: slices.Clone(l.ended), notes: notes}
	for _, d := range l.dests {
		if d.dlog != nil {
			s.dests = append(s.dests, d)
		}
	}
	slices.SortFunc(s.dests, func(a, b *destination) int { return int(a.id) - int(b.id) }) //nolint:gosec // small
	for _, d := range s.dests {
		s.states = append(s.states, parkedState{
			ID: d.id, Sink: d.key.sink, Name: d.key.name, Why: d.why, Missing: d.missing, Since: d.since.UnixMilli(), Cursor: d.cursor,
			Written: d.written, LogStart: d.first, LogEnd: d.end,
		})
	}
	return s
}

// store writes the snapshot in a checkpoint's transaction.
func (s *parkedSnapshot) store(b *statefile.Bucket) error {
	if err := putJSON(b, keyParked, s.states); err != nil {
		return err
	}
	joined := b.Bucket(bucketJoined)
	for _, key := range slices.Sorted(maps.Keys(s.notes)) {
		var err error
		if v := s.notes[key]; v == nil {
			err = joined.Delete([]byte(key))
		} else {
			err = joined.Put([]byte(key), v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// release removes what the stored snapshot no longer needs.
func (l *parkedStore) release(s *parkedSnapshot) {
	for i, d := range s.dests {
		st := &s.states[i]
		l.mu.Lock()
		keep := st.LogEnd
		if d.pos.Segment < keep.Segment {
			keep = d.pos
		}
		l.mu.Unlock()
		if err := d.dlog.Trim(st.Cursor, keep); err != nil {
			l.log.Warn("log of a parked destination not trimmed", "destination", d.key.String(), "err", err)
		}
		size, first := d.dlog.Bytes(), d.dlog.Start()
		l.mu.Lock()
		d.size, d.first = size, first
		l.mu.Unlock()
	}
	for _, d := range s.ended {
		l.mu.Lock()
		l.ended = slices.DeleteFunc(l.ended, func(o *destination) bool { return o == d })
		l.mu.Unlock()
		d.dlog.Close()
		if err := l.remove(d.id); err != nil {
			l.log.Warn("log of a parked destination not removed", "destination", d.key.String(), "err", err)
		}
	}
}

// remove deletes a log and its directory.
func (l *parkedStore) remove(id uint64) error {
	dir := l.logDir(id)
	names, err := l.fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		err = errors.Join(err, l.fs.Remove(filepath.Join(dir, name)))
	}
	return errors.Join(err, l.fs.Remove(dir))
}

// parkedStates is the parkedStore's part of a checkpoint.
type parkedStates struct {
	dests []parkedState
	notes map[string][]byte
}

func (p *parkedStates) load(b *statefile.Bucket) error {
	p.notes = map[string][]byte{}
	err := b.Bucket(bucketJoined).ForEach(func(key, value []byte) error {
		p.notes[string(key)] = slices.Clone(value)
		return nil
	})
	return errors.Join(err, getJSON(b, keyParked, &p.dests))
}

// restore opens the logs as of the checkpoint, counts their pending messages, and removes all other logs.
func (l *parkedStore) restore(states *parkedStates) error {
	if err := l.removeUnknown(states.dests); err != nil {
		return err
	}
	for i := range states.dests {
		if err := l.restoreLog(&states.dests[i]); err != nil {
			return err
		}
	}
	for _, p := range l.env.pipelines {
		p.window.again.Store(int64(len(p.parked.before)))
	}
	for key, value := range states.notes {
		if err := l.restoreNote(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (l *parkedStore) removeUnknown(states []parkedState) error {
	names, err := l.fs.List(l.dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("logs of parked destinations: %w", err)
	}
	for _, name := range names {
		id, err := strconv.ParseUint(name, 16, 64)
		if err != nil || slices.ContainsFunc(states, func(s parkedState) bool { return s.ID == id }) {
			continue
		}
		if err := l.remove(id); err != nil {
			return fmt.Errorf("logs of parked destinations: %w", err)
		}
	}
	return nil
}

func (l *parkedStore) restoreLog(s *parkedState) error {
	l.lastID = max(l.lastID, s.ID)
	k := destKey{s.Sink, s.Name}
	dlog, err := wal.OpenLog(l.fs, l.logDir(s.ID), parkedAt(s.ID, k, l.epoch), s.LogStart, s.LogEnd, l.limits.segmentBytes())
	if err != nil {
		return err
	}
	d := &destination{
		l: l, via: l.env.byName[s.Sink], key: k, why: s.Why, missing: s.Missing, since: time.UnixMilli(s.Since),
		cursor: s.Cursor, read: s.Cursor, written: s.Cursor, lowSet: ^uint32(0),
	}
	if d.adoptLocked(s.ID, dlog); d.via == nil || d.via.parker == nil {
		l.log.Error("sink removed from the configuration; its parked messages are dropped", "destination", k.String())
		l.ended = append(l.ended, d)
		return nil
	}
	l.dests[k], l.closed[k] = d, true
	if err := d.recount(); err != nil {
		return err
	}
	if d.written != s.Written {
		return fmt.Errorf("%w: %s ends with entry %d, the checkpoint says %d", wal.ErrDamaged, dlog.Dir(), d.written, s.Written)
	}
	return nil
}

// recount counts the log's entries after the cursor. Messages after the owner's cursor are delivered again, and counted
// then.
func (d *destination) recount() error {
	pos := d.pos
	for {
		data, next, ok, err := d.dlog.Read(pos)
		if err != nil || !ok {
			return err
		}
		e, err := readParked(data, &d.l.decoder)
		if err != nil {
			return d.dlog.Damage(pos, err)
		}
		d.dlog.Note(next.Segment, e.number)
		pos = next
		if e.number <= d.cursor {
			d.pos = next
			continue
		}
		if e.number != d.written+1 {
			return d.dlog.Damage(d.pos, fmt.Errorf("entry %d comes after %d", e.number, d.written))
		}
		d.noteLocked(&e)
		p := d.l.env.byName[e.sink]
		switch {
		case p == nil:
		case e.seq <= p.cursor():
			p.watchBegun(e.seq)
			p.parked.restore(e.seq, e.many)
		default:
			if p.parked.before == nil {
				p.parked.before = map[messageKey]bool{}
			}
			p.parked.before[keyOf(e.seq, e.decision)] = true
		}
	}
}

func (l *parkedStore) restoreNote(key string, value []byte) error {
	sink, seq, ok := strings.Cut(key, "\x00")
	p := l.env.byName[sink]
	if !ok || len(seq) != 8 || p == nil {
		return nil
	}
	return p.restoreNote(binary.BigEndian.Uint64([]byte(seq)), value)
}

// start parks the destinations in the sinks.
func (l *parkedStore) start() {
	for _, d := range l.inOrder() {
		d.via.parker.Park(d.key.name)
	}
}

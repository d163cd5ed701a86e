package sink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
)

// repairSegmentBytes is the size of the segments that a repair writes.
const repairSegmentBytes = 8 << 20

// LogDamage describes a decision log that New would refuse: it lacks something that the last checkpoint names.
type LogDamage struct {
	// Sink is the log's sink, or "parked" for the logs of parked destinations.
	Sink string
	Err  error
	// Pending is the number of waiting records in the log; the decisions of Lost of them are unreadable.
	Pending, Lost uint64
	// First and Last are the range of these records in the journal.
	First, Last uint64
}

// CheckLogs reads the decision logs below dir like New with a journal of that epoch, without changes. The gateway must
// not run.
func CheckLogs(db *statefile.DB, dir string, epoch uint64) ([]LogDamage, error) {
	states, evaluated, err := logStates(db, epoch)
	if err != nil {
		return nil, err
	}
	var found []LogDamage
	for _, s := range states {
		err := s.check(dir, epoch)
		if err == nil {
			continue
		}
		d := LogDamage{Sink: s.name, Err: err, Pending: s.logged(), First: s.Cursor + 1, Last: evaluated}
		kept, err := s.salvage(filepath.Join(dir, s.name), epoch, evaluated, func([]byte, uint64) error { return nil })
		if err != nil {
			return nil, err
		}
		d.Lost = d.Pending - min(kept, d.Pending)
		found = append(found, d)
	}
	parked, err := checkParked(db, dir, epoch, states)
	if err != nil {
		return nil, err
	}
	if d := parked.damage(); d != nil {
		found = append(found, *d)
	}
	return found, nil
}

// RepairLog recreates the decision log of a sink from its readable part, moves the previous one to backup, and counts
// the rest as dropped(DecisionsLost). After an interruption it can be run again.
func RepairLog(db *statefile.DB, dir, backup, sink string, epoch uint64) (lost uint64, err error) {
	states, evaluated, err := logStates(db, epoch)
	if err != nil {
		return 0, err
	}
	if sink == parkedLogs {
		c, err := checkParked(db, dir, epoch, states)
		if err != nil || c.err == nil {
			return 0, err
		}
		return c.repair(db, backup)
	}
	for _, s := range states {
		if s.name == sink {
			return s.repair(db, dir, backup, epoch, evaluated)
		}
	}
	return 0, fmt.Errorf("no state of sink %s", sink)
}

// loggedSink is a sink's name and its part of a checkpoint.
type loggedSink struct {
	name string
	sinkState
}

// logStates returns the states of all sinks, none if the checkpoint is of another journal: its logs are not read.
func logStates(db *statefile.DB, epoch uint64) (states []loggedSink, evaluated uint64, err error) {
	err = db.View(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketDispatch)
		if b == nil || b.Bucket(bucketSinks) == nil || getUint(b, keyEpoch) != epoch {
			return nil
		}
		evaluated = getUint(b, keyEvaluated)
		return b.Bucket(bucketSinks).ForEach(func(name, _ []byte) error {
			s := loggedSink{name: string(name)}
			states = append(states, s)
			return getJSON(b.Bucket(bucketSinks), name, &states[len(states)-1].sinkState)
		})
	})
	return states, evaluated, err
}

// check opens the log like New.
func (s *loggedSink) check(dir string, epoch uint64) error {
	p := pipeline{name: s.name}
	err := p.openLog(lookOnly{wal.OS{Perm: filePerm}}, filepath.Join(dir, s.name), epoch, s.sinkState, repairSegmentBytes)
	if p.dlog != nil {
		p.dlog.Close()
	}
	return err
}

// decisionsOf returns the identity of a sink's decision log.
func decisionsOf(sink string, epoch uint64) wal.Identity {
	return wal.Identity{Name: "decisions/" + sink, Epoch: epoch}
}

// salvage calls fn with every readable chunk that may belong to the checkpoint, and returns the number of pending
// records in them.
func (s *loggedSink) salvage(dir string, epoch, evaluated uint64, fn func(data []byte, last uint64) error) (records uint64, err error) {
	newest := uint64(0)
	err = wal.Salvage(wal.OS{}, dir, decisionsOf(s.name, epoch), func(data []byte) error {
		first, last, pending, err := span(data, s.Cursor)
		if err != nil || first <= newest || last > evaluated {
			return nil //nolint:nilerr // the unreadable part is what is lost
		}
		newest, records = last, records+pending
		return fn(data, last)
	})
	return records, err
}

// span returns a chunk's first and last record, and the number of its records after cursor.
func span(data []byte, cursor uint64) (first, last, behind uint64, err error) {
	c, err := readChunk(data)
	if err != nil {
		return 0, 0, 0, err
	}
	first = c.seq
	for {
		seq, _, more, err := c.next(nil)
		if err != nil || !more {
			return first, last, behind, err
		}
		last = seq
		if seq > cursor {
			behind++
		}
	}
}

func (s *loggedSink) repair(db *statefile.DB, dir, backup string, epoch, evaluated uint64) (lost uint64, err error) {
	log, made := filepath.Join(dir, s.name), filepath.Join(dir, s.name+".repaired")
	if err := os.RemoveAll(made); err != nil {
		return 0, err
	}
	l, err := wal.OpenLog(wal.OS{Perm: filePerm}, made, decisionsOf(s.name, epoch), wal.Position{}, wal.Position{Segment: s.LogEnd.Segment}, repairSegmentBytes)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	kept, err := s.salvage(log, epoch, evaluated, l.Append)
	if err == nil {
		err = l.Sync()
	}
	if err != nil {
		return 0, err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(backup), 0o700), ignoreMissing(os.Rename(log, backup)),
		os.Rename(made, log), wal.SyncDir(wal.OS{}, dir), wal.SyncDir(wal.OS{}, filepath.Dir(backup))); err != nil {
		return 0, err
	}
	pending := s.logged()
	lost = pending - min(kept, pending)
	s.Counts.add(dropped, DecisionsLost, lost)
	s.LogStart, s.LogEnd = l.Start(), l.End()
	return lost, db.Update(func(tx *statefile.Tx) error {
		return putJSON(tx.Bucket(bucketDispatch).Bucket(bucketSinks), []byte(s.name), s.sinkState)
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lookOnly is a file system without changes.
type lookOnly struct{ wal.FS }

func (lookOnly) MkdirAll(string) error              { return nil }
func (lookOnly) OpenDir(string) (wal.Dir, error)    { return discard{}, nil }
func (lookOnly) Create(string) (wal.File, error)    { return discard{}, nil }
func (lookOnly) OpenWrite(string) (wal.File, error) { return discard{}, nil }
func (l lookOnly) List(dir string) ([]string, error) {
	names, err := l.FS.List(dir)
	return names, ignoreMissing(err)
}

// Remove fails where it really would: for a non-empty folder in a log's place.
func (lookOnly) Remove(name string) error {
	if inside, err := os.ReadDir(name); err == nil && len(inside) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	return nil
}

// discard is an empty file that discards writes.
type discard struct{ wal.File }

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (discard) Close() error                           { return nil }
func (discard) Truncate(int64) error                   { return nil }
func (discard) Sync() error                            { return nil }

package sink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"cellgate/broker/statefile"
	"cellgate/broker/wal"
)

// LogDamage is a decision log that New would refuse: it does not have what the last checkpoint tells of.
type LogDamage struct {
	// Sink is whose log it is, or "parked" for the logs of parked destinations of all sinks.
	Sink string
	Err  error
	// Pending records wait in the log. The decisions of Lost ones of them cannot be read any more.
	Pending, Lost uint64
	// First and Last are the sequences between which these records stand in the journal.
	First, Last uint64
}

// CheckLogs reads the decision logs below dir as New would with a journal of that epoch, and changes nothing. The gateway
// must not run.
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

// RepairLog makes the decision log of a sink anew of what can be read of it, moves what was there to backup, and counts
// the rest as dropped(DecisionsLost). A repair that was interrupted is done by the next one.
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

// loggedSink is what a checkpoint keeps of a sink, with its name.
type loggedSink struct {
	name string
	sinkState
}

// logStates are those of all sinks, none when the checkpoint is of another journal: its logs are not read.
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

// check opens the log as New does.
func (s *loggedSink) check(dir string, epoch uint64) error {
	p := pipeline{name: s.name}
	err := p.openLog(lookOnly{wal.OS{Perm: filePerm}}, filepath.Join(dir, s.name), epoch, s.sinkState, maxChunk)
	if p.dlog != nil {
		p.dlog.close()
	}
	return err
}

// salvage calls fn with every chunk that can be read and may be among those that the checkpoint tells of, and returns
// how many pending records are in them.
func (s *loggedSink) salvage(dir string, epoch, evaluated uint64, fn func(data []byte, last uint64) error) (records uint64, err error) {
	l := decisionLog{fs: lookOnly{wal.OS{Perm: filePerm}}, dir: dir, epoch: epoch}
	numbers, err := l.list()
	if err != nil {
		return 0, nil //nolint:nilerr // what cannot be read is what is lost
	}
	newest := uint64(0)
	for _, n := range numbers {
		err := l.frames(n, func(data []byte) error {
			first, last, pending, err := span(data, s.Cursor)
			if err != nil || first <= newest || last > evaluated {
				return nil //nolint:nilerr // what cannot be read is what is lost
			}
			newest, records = last, records+pending
			return fn(data, last)
		})
		if err != nil {
			return records, err
		}
	}
	return records, nil
}

// span returns the first and the last record of a chunk, and how many of its records are behind cursor.
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

// frames calls fn with every frame of a segment that can be read, wherever the damage is: a frame whose content is damaged
// is passed over by its length, and behind a length that cannot be nothing is found any more. A segment of another
// journal has none.
func (l *decisionLog) frames(n uint64, fn func(data []byte) error) error {
	b, err := os.ReadFile(l.path(n))
	if err != nil || len(b) < segmentHeader {
		return nil //nolint:nilerr // what cannot be read is what is lost
	}
	whole := string(b[:len(logMagic)]) == logMagic && binary.LittleEndian.Uint32(b[40:]) == crc32.Checksum(b[:40], castagnoli)
	if whole && binary.LittleEndian.Uint64(b[32:]) != l.epoch {
		return nil
	}
	for b = b[segmentHeader:]; len(b) >= frameHeader; {
		size := int64(binary.LittleEndian.Uint32(b))
		sum := binary.LittleEndian.Uint32(b[4:])
		if b = b[frameHeader:]; size > int64(len(b)) {
			return nil
		}
		data := b[:size]
		if b = b[size:]; size == 0 || crc32.Checksum(data, castagnoli) != sum {
			continue
		}
		if err := fn(data); err != nil {
			return err
		}
	}
	return nil
}

func (s *loggedSink) repair(db *statefile.DB, dir, backup string, epoch, evaluated uint64) (lost uint64, err error) {
	log, made := filepath.Join(dir, s.name), filepath.Join(dir, s.name+".repaired")
	if err := os.RemoveAll(made); err != nil {
		return 0, err
	}
	l, err := openDecisionLog(wal.OS{Perm: filePerm}, made, epoch, position{}, position{Segment: s.LogEnd.Segment}, 8<<20)
	if err != nil {
		return 0, err
	}
	defer l.close()
	kept, err := s.salvage(log, epoch, evaluated, l.append)
	if err == nil {
		err = l.sync()
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
	s.LogStart, s.LogEnd = l.start(), l.end()
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

// lookOnly is a file system on which nothing changes.
type lookOnly struct{ wal.FS }

func (lookOnly) MkdirAll(string) error              { return nil }
func (lookOnly) Remove(string) error                { return nil }
func (lookOnly) OpenDir(string) (wal.Dir, error)    { return nowhere{}, nil }
func (lookOnly) Create(string) (wal.File, error)    { return nowhere{}, nil }
func (lookOnly) OpenWrite(string) (wal.File, error) { return nowhere{}, nil }
func (l lookOnly) List(dir string) ([]string, error) {
	names, err := l.FS.List(dir)
	return names, ignoreMissing(err)
}

// nowhere is an empty file that takes everything.
type nowhere struct{ wal.File }

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (nowhere) Close() error                           { return nil }
func (nowhere) Truncate(int64) error                   { return nil }
func (nowhere) Sync() error                            { return nil }

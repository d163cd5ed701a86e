package sink

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
)

// parkedLogs is the folder of the logs of parked destinations, next to those of the sinks.
const parkedLogs = "parked"

// parkedCheck compares the logs of parked destinations with the last checkpoint.
type parkedCheck struct {
	states []parkedState
	sinks  []loggedSink
	epoch  uint64
	dir    string // of the logs
	// found counts the parked records of each sink, by name; joint tracks those in several logs.
	found map[string]uint64
	joint map[string]map[uint64]bool
	err   error // the first error that New would return
}

// checkParked reads the logs of parked destinations like New, without changes.
func checkParked(db *statefile.DB, dir string, epoch uint64, sinks []loggedSink) (*parkedCheck, error) {
	c := &parkedCheck{
		sinks: sinks, epoch: epoch, dir: filepath.Join(dir, parkedLogs), found: map[string]uint64{}, joint: map[string]map[uint64]bool{},
	}
	if len(sinks) == 0 { // another journal's logs are not read
		return c, nil
	}
	err := db.View(func(tx *statefile.Tx) error {
		return getJSON(tx.Bucket(bucketDispatch), keyParked, &c.states)
	})
	if err != nil {
		return nil, err
	}
	for i := range c.states {
		s := &c.states[i]
		last, err := s.Cursor, c.open(s)
		readErr := c.read(s, func(e *parkedEntry) error {
			if e.number == last+1 {
				last = e.number
			}
			c.count(e)
			return nil
		})
		if err == nil && last != s.Written {
			err = fmt.Errorf("%w: %s has its entries up to %d, the checkpoint says %d", wal.ErrDamaged, c.logDir(s), last, s.Written)
		}
		c.err = cmpErr(c.err, err)
		if readErr != nil {
			return nil, readErr
		}
	}
	for _, s := range sinks {
		if c.found[s.name] != s.Parked {
			c.err = cmpErr(c.err, fmt.Errorf("%w: %d parked records of %s are there, the checkpoint says %d", wal.ErrDamaged, c.found[s.name], s.name, s.Parked))
		}
	}
	return c, nil
}

func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func (c *parkedCheck) logDir(s *parkedState) string {
	return filepath.Join(c.dir, fmt.Sprintf("%016x", s.ID))
}

func (c *parkedCheck) identity(s *parkedState) wal.Identity {
	return parkedAt(s.ID, destKey{s.Sink, s.Name}, c.epoch)
}

func (c *parkedCheck) open(s *parkedState) error {
	l, err := wal.OpenLog(lookOnly{wal.OS{}}, c.logDir(s), c.identity(s), s.LogStart, s.LogEnd, repairSegmentBytes)
	if l != nil {
		l.Close()
	}
	return err
}

// read calls fn with every readable entry that is not settled.
func (c *parkedCheck) read(s *parkedState, fn func(e *parkedEntry) error) error {
	var decoder message.Decoder
	last := s.Cursor
	return wal.Salvage(wal.OS{}, c.logDir(s), c.identity(s), func(data []byte) error {
		e, err := readParked(data, &decoder)
		if err != nil || e.number <= last || e.number > s.Written {
			return nil //nolint:nilerr // the unreadable part is what is lost
		}
		last = e.number
		return fn(&e)
	})
}

// count counts an entry's record if its sink's cursor has passed it.
func (c *parkedCheck) count(e *parkedEntry) {
	for _, s := range c.sinks {
		if s.name != e.sink || e.seq > s.Cursor || c.joint[e.sink][e.seq] {
			continue
		}
		c.found[e.sink]++
		if !e.many {
			continue
		}
		if c.joint[e.sink] == nil {
			c.joint[e.sink] = map[uint64]bool{}
		}
		c.joint[e.sink][e.seq] = true
	}
}

// damage returns the report for CheckLogs, nil without damage.
func (c *parkedCheck) damage() *LogDamage {
	if c.err == nil {
		return nil
	}
	d := &LogDamage{Sink: parkedLogs, Err: c.err}
	for _, s := range c.sinks {
		d.Pending += s.Parked
		d.Lost += s.Parked - min(s.Parked, c.found[s.name])
		d.Last = max(d.Last, s.Cursor)
	}
	return d
}

// repair recreates the logs of parked destinations from their readable entries, moves the previous ones to backup, and
// counts the lost records. A record with several parked messages is lost if none of them is left.
func (c *parkedCheck) repair(db *statefile.DB, backup string) (lost uint64, err error) {
	made := c.dir + ".repaired"
	if err := os.RemoveAll(made); err != nil {
		return 0, err
	}
	states := make([]parkedState, 0, len(c.states))
	for i := range c.states {
		s, err := c.copyLog(&c.states[i], made)
		if err != nil {
			return 0, err
		}
		states = append(states, s)
	}
	parent := filepath.Dir(c.dir)
	if err := errors.Join(os.MkdirAll(made, 0o700), os.MkdirAll(filepath.Dir(backup), 0o700), ignoreMissing(os.Rename(c.dir, backup)),
		os.Rename(made, c.dir), wal.SyncDir(wal.OS{}, parent), wal.SyncDir(wal.OS{}, filepath.Dir(backup))); err != nil {
		return 0, err
	}
	return c.damage().Lost, db.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketDispatch)
		for _, s := range c.sinks {
			if gone := s.Parked - min(s.Parked, c.found[s.name]); gone > 0 {
				s.Counts.add(dropped, DecisionsLost, gone)
			}
			s.Parked = c.found[s.name]
			if err := putJSON(b.Bucket(bucketSinks), []byte(s.name), s.sinkState); err != nil {
				return err
			}
		}
		return putJSON(b, keyParked, states)
	})
}

// copyLog copies the readable entries of a log to a new one below made, and returns its state.
func (c *parkedCheck) copyLog(s *parkedState, made string) (parkedState, error) {
	out := *s
	dir := filepath.Join(made, fmt.Sprintf("%016x", s.ID))
	l, err := wal.OpenLog(wal.OS{Perm: filePerm}, dir, c.identity(s), wal.Position{}, wal.Position{Segment: s.LogEnd.Segment}, repairSegmentBytes)
	if err != nil {
		return out, err
	}
	defer l.Close()
	out.Cursor, out.Written = 0, 0
	err = c.read(s, func(e *parkedEntry) error {
		out.Written++
		e.number = out.Written
		return l.Append(e.append(nil), e.number)
	})
	if err == nil {
		err = l.Sync()
	}
	out.LogStart, out.LogEnd = l.Start(), l.End()
	return out, err
}

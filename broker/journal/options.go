package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/shared/complete"
	"cellgate/broker/wal"
)

// Errors of the journal. Anything else that Append, WaitDurable or a Reader returns is the sticky error
// of a failed write or sync, or of a medium that cannot be read.
var (
	// ErrFull says that there is no room for more records: MaxBytes is reached or the disk is full, and
	// every segment is still needed. Nothing was appended; WaitRoom tells when to try again.
	ErrFull = errors.New("journal is full")
	// ErrClosed says that the journal or the reader was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrTooLarge says that a record does not fit into a segment.
	ErrTooLarge = errors.New("record does not fit into a journal segment")
	// ErrTrimmed says that a reader asked for records that are no longer kept.
	ErrTrimmed = errors.New("journal no longer has these records")
	// ErrBeyond says that a reader asked for records after the next one to be appended.
	ErrBeyond = errors.New("journal does not reach that far")
)

// Options of Open.
type Options struct {
	// Dir is the journal's own directory; it is created when missing.
	Dir string
	Machine
	// SegmentBytes is the size of a segment file: at least 12 KiB. Segments of
	// another size that are already there stay as they are.
	SegmentBytes int64
	// MaxBytes bounds all files of the journal together, spare ones included: at least three segments.
	// At the bound Append returns ErrFull until consumers have passed a segment.
	MaxBytes int64
	// ReserveBytes of the file system are left to others: no segment is added below it.
	ReserveBytes int64 `zero:"none"`
	// SegmentAge is the age at which a segment is closed although it is not full, so that a quiet
	// journal gives up consumed records too.
	SegmentAge time.Duration `zero:"never"`
	// CommitInterval is the longest time between the starts of two commits while records wait.
	// See DECISIONS.md for when commits come sooner.
	CommitInterval time.Duration `zero:"they do not wait for each other"`
	// BufferBytes bounds what is accepted and not yet committed. One call of Append may exceed it by its own size.
	BufferBytes int
	// Jump is how far the wall clock has moved since the last run if that cannot have been a stop, as
	// clock.New tells it: then the journal begins with a step of the clock. That the clock is behind the last record the
	// journal sees by itself.
	Jump time.Duration `zero:"it has not" negative:"it went back"`
	// OnStep is told of every step of the clock, after its record was appended. It must not block, nor call the journal.
	OnStep func(clock.Step)
	// OnFatal is called once, on a goroutine of its own, with the sticky error.
	OnFatal func(error)
	// Log receives recoveries, corruptions, and the loss and return of room.
	Log     *slog.Logger
	Metrics *Metrics
	// KnownEpoch and KnownLast are what consumers have written down elsewhere: that the journal of this
	// epoch had reached at least this sequence. A journal that was recovered to less has lost its end,
	// marks and all; it reports that and goes on after KnownLast, so that no sequence is used twice.
	KnownEpoch uint64 `zero:"none is known"`
	KnownLast  uint64 `zero:"none is known"`
}

// Machine is what the journal needs of the machine that it runs on.
type Machine struct {
	FS     wal.FS       // below Dir
	Clock  clock.Source // of ReceivedAt
	Random io.Reader    // of epochs and salts
}

// ThisMachine is the one that the process runs on, with a clock.
func ThisMachine(c clock.Source) Machine {
	return Machine{FS: wal.OS{Perm: filePerm}, Clock: c, Random: rand.Reader}
}

// filePerm lets the group read, for backups.
const filePerm = 0o640

func (o *Options) check() error {
	if err := complete.Check(*o); err != nil {
		return err
	}
	if o.SegmentBytes < wal.MinSegmentBytes {
		return fmt.Errorf("journal: segment size %d is below %d bytes", o.SegmentBytes, wal.MinSegmentBytes)
	}
	if o.SegmentBytes > wal.MaxSegmentBytes {
		return fmt.Errorf("journal: segment size %d is above 2 GiB", o.SegmentBytes)
	}
	if o.MaxBytes < 3*o.SegmentBytes {
		return fmt.Errorf("journal: %d bytes in all are less than three segments of %d", o.MaxBytes, o.SegmentBytes)
	}
	return nil
}

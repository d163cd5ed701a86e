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

// Errors of the journal. Any other error of Append, WaitDurable or a Reader is the sticky error of a failed write or
// sync, or of an unreadable medium.
var (
	// ErrFull means that there is no room for more records: MaxBytes is reached or the disk is full, and every segment
	// is still needed. Nothing was appended; WaitRoom waits until it can be tried again.
	ErrFull = errors.New("journal is full")
	// ErrClosed means that the journal or the reader was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrTooLarge means that a record does not fit into a segment.
	ErrTooLarge = errors.New("record does not fit into a journal segment")
	// ErrTrimmed means that a reader asked for records that are no longer kept.
	ErrTrimmed = errors.New("journal no longer has these records")
	// ErrBeyond means that a reader asked for records after the next one to be appended.
	ErrBeyond = errors.New("journal does not have these records yet")
)

// Options are the options of Open.
type Options struct {
	// Dir is the journal's own directory; it is created if missing.
	Dir string
	Machine
	// SegmentBytes is the size of a segment file, at least 12 KiB. Existing segments of another size are kept.
	SegmentBytes int64
	// MaxBytes bounds all files of the journal together, including spare ones, at least three segments. At the bound
	// Append returns ErrFull until consumers have passed a segment.
	MaxBytes int64
	// ReserveBytes of the file system are left to others: no segment is added if less would stay free.
	ReserveBytes int64 `zero:"none"`
	// SegmentAge is the age at which a segment is closed even if it is not full, so that a quiet journal releases
	// consumed records, too.
	SegmentAge time.Duration `zero:"never"`
	// CommitInterval is the longest time between the starts of two commits while records wait. DECISIONS.md says when
	// commits come sooner.
	CommitInterval time.Duration `zero:"they do not wait for each other"`
	// BufferBytes bounds accepted and uncommitted records. One call of Append may exceed it by its own size.
	BufferBytes int
	// Jump is how far the wall clock has moved since the last run beyond what a stop can explain, as returned by
	// clock.New. The journal then begins with a step of the clock. The journal itself detects a clock that is before
	// the last record.
	Jump time.Duration `zero:"it has not" negative:"it went back"`
	// OnStep is called with every step of the clock after its record was appended. It must not block or call the
	// journal.
	OnStep func(clock.Step)
	// OnFatal is called once, on its own goroutine, with the sticky error.
	OnFatal func(error)
	// Log receives recoveries, corruptions, and the loss and return of room.
	Log     *slog.Logger
	Metrics *Metrics
	// KnownEpoch and KnownLast are stored by consumers elsewhere: the journal of this epoch had reached at least this
	// sequence. If less is recovered, the journal has lost its end with all marks. It reports that and continues after
	// KnownLast, so that no sequence is used twice.
	KnownEpoch uint64 `zero:"none is known"`
	KnownLast  uint64 `zero:"none is known"`
}

// Machine is the part of the machine that the journal uses.
type Machine struct {
	FS     wal.FS       // below Dir
	Clock  clock.Source // of ReceivedAt
	Random io.Reader    // of epochs and salts
}

// ThisMachine returns the machine that the process runs on, with a clock.
func ThisMachine(c clock.Source) Machine {
	return Machine{FS: wal.OS{Perm: filePerm}, Clock: c, Random: rand.Reader}
}

// filePerm lets the group read the files, for backups.
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

package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"cellgate/broker/clock"
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
	// ErrBeyond says that a reader asked for records behind the next one to be appended.
	ErrBeyond = errors.New("journal does not reach that far")
)

// Defaults of Options.
const (
	DefaultSegmentBytes   = 64 << 20
	DefaultMaxBytes       = 20 << 30
	DefaultCommitInterval = 4 * time.Millisecond
	DefaultBufferBytes    = 32 << 20
	DefaultReserveBytes   = 64 << 20
	DefaultSegmentAge     = 24 * time.Hour
)

// Options of Open. Dir is required; the zero value of everything else is its default.
type Options struct {
	// Dir is the journal's own directory; it is created when missing.
	Dir string
	// FS is the file system below Dir; nil is the operating system's.
	FS wal.FS
	// SegmentBytes is the size of a segment file: at least 12 KiB, by default 64 MiB. Segments of
	// another size that are already there stay as they are.
	SegmentBytes int64
	// MaxBytes bounds all files of the journal together, spare ones included: at least three segments,
	// by default 20 GiB. At the bound Append returns ErrFull until consumers have passed a segment.
	MaxBytes int64
	// ReserveBytes of the file system are left to others: no segment is added below it. By default
	// 64 MiB; negative is none.
	ReserveBytes int64
	// SegmentAge is the age at which a segment is closed although it is not full, so that a quiet
	// journal gives up consumed records too. By default 24 h; negative is never.
	SegmentAge time.Duration
	// CommitInterval is the longest time between the starts of two commits while records wait, by
	// default 4 ms. See DECISIONS.md for when commits come sooner.
	CommitInterval time.Duration
	// BufferBytes bounds what is accepted and not yet committed, by default 32 MiB but no more than
	// a segment. One call of Append may exceed it by its own size.
	BufferBytes int
	// Clock is the clock of ReceivedAt; nil is the machine's.
	Clock clock.Source
	// Jump is how far the wall clock has moved since the last run if that cannot have been a stop, as
	// clock.New tells it: then the journal begins with a step of the clock. That the clock is behind the last record the
	// journal sees by itself.
	Jump time.Duration
	// OnStep is told of every step of the clock, after its record was appended. It must not block, nor call the journal.
	OnStep func(clock.Step)
	// OnFatal is called once, on a goroutine of its own, with the sticky error.
	OnFatal func(error)
	// Log receives recoveries, corruptions, and the loss and return of room; nil discards.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// KnownEpoch and KnownLast are what consumers have written down elsewhere: that the journal of this
	// epoch had reached at least this sequence. A journal that was recovered to less has lost its end,
	// marks and all; it reports that and goes on behind KnownLast, so that no sequence is used twice.
	KnownEpoch uint64
	KnownLast  uint64

	// random is the source of epochs and salts.
	random io.Reader
}

// filePerm lets the group read, for backups.
const filePerm = 0o640

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return errors.New("journal: no directory given")
	}
	setDefault(&o.SegmentBytes, DefaultSegmentBytes)
	setDefault(&o.MaxBytes, max(DefaultMaxBytes, 3*o.SegmentBytes))
	setDefault(&o.ReserveBytes, DefaultReserveBytes)
	setDefault(&o.SegmentAge, DefaultSegmentAge)
	setDefault(&o.CommitInterval, DefaultCommitInterval)
	setDefault(&o.BufferBytes, int(min(DefaultBufferBytes, o.SegmentBytes)))
	if o.SegmentBytes < wal.MinSegmentBytes {
		return fmt.Errorf("journal: segment size %d is below %d bytes", o.SegmentBytes, wal.MinSegmentBytes)
	}
	if o.SegmentBytes > wal.MaxSegmentBytes {
		return fmt.Errorf("journal: segment size %d is above 2 GiB", o.SegmentBytes)
	}
	if o.MaxBytes < 3*o.SegmentBytes {
		return fmt.Errorf("journal: %d bytes in all are less than three segments of %d", o.MaxBytes, o.SegmentBytes)
	}
	if o.FS == nil {
		o.FS = wal.OS{Perm: filePerm}
	}
	if o.Clock == nil {
		o.Clock = clock.System()
	}
	if o.OnStep == nil {
		o.OnStep = func(clock.Step) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.random == nil {
		o.random = rand.Reader
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

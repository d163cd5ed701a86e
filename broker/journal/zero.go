package journal

import (
	"log/slog"
	"time"

	"cellgate/broker/wal"
)

// This file writes zeros to spare files that are new. The first write to each block of a preallocated file changes the file's
// metadata, and to sync that waits for whatever else the file system's own journal has to write: other logs, the state file,
// Kafka's. A file that has been written once, as a recycled one, is free of that.

const (
	// zeroBytes are written at a time: the committer may have to wait for as many.
	zeroBytes = 256 << 10
	// zeroPace is between two times.
	zeroPace = 10 * time.Millisecond
	// zeroAfter is how long ago the committer has taken a file: one that takes a new one every few seconds would write everything
	// twice, and its slowest commits do not matter.
	zeroAfter = 3 * time.Second
	// zeroAtStart is how long a start is left alone.
	zeroAtStart = time.Second
)

// zeroPause is when to go on with zeros; some is false when there is no file for them.
func (k *keeper) zeroPause() (pause time.Duration, some bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unzeroedLocked() == nil {
		return 0, false
	}
	return max(zeroPace, time.Until(k.zeroFrom)), true
}

func (k *keeper) unzeroedLocked() *spare {
	for _, s := range k.spares {
		if s.salt == 0 && s.zeroed < s.size {
			return s
		}
	}
	return nil
}

// zero writes some zeros. A file that takes none is used as it is.
func (k *keeper) zero() {
	k.mu.Lock()
	s := k.unzeroedLocked()
	if s == nil {
		k.mu.Unlock()
		return
	}
	s.busy.Lock() // before the committer can have it
	defer s.busy.Unlock()
	k.mu.Unlock()
	from := max(s.zeroed, wal.SegmentStart)
	to := min(from+zeroBytes, s.size)
	if err := s.file.Zero(from, to); err != nil {
		k.log.Warn("journal: cannot write to an unused segment", slog.String("file", s.name), slog.Any("err", err))
		to = s.size
	}
	s.zeroed = to
}

package journal

import (
	"log/slog"
	"time"

	"cellgate/broker/wal"
)

// This file writes zeros to new spare files. The first write to each block of a preallocated file changes the file's
// metadata, and syncing that waits for whatever else is in the file system's journal: other logs, the state file,
// Kafka's files. A file that was written before, such as a recycled one, avoids that.

const (
	// zeroBytes are written at a time; the committer may have to wait for one such write.
	zeroBytes = 256 << 10
	// zeroPace is the time between two writes.
	zeroPace = 10 * time.Millisecond
	// zeroAfter is how long after the committer has taken a file zeros are written. A journal that takes a file every
	// few seconds would write everything twice, and its slowest commits do not matter.
	zeroAfter = 3 * time.Second
	// zeroAtStart is how long after the start no zeros are written.
	zeroAtStart = time.Second
)

// zeroPause returns the time until the next zeros; some is false if no file needs them.
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

// zero writes some zeros. If that fails, the file is used as it is.
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

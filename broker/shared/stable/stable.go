// Package stable reads files that another process may be writing. A file is often truncated before it is written, and
// a folder is changed file by file: one read may see half of the change.
package stable

import (
	"context"
	"fmt"
	"time"

	"cellgate/broker/shared/remote"
)

const (
	// Gap is the time between two reads that must agree.
	Gap = 250 * time.Millisecond
	// maxReads bounds the reads of something that keeps changing.
	maxReads = 12
)

// ChangingError means that no two consecutive reads agreed.
type ChangingError struct{ Reads int }

// Error implements error.
func (e *ChangingError) Error() string {
	return fmt.Sprintf("it is still being written: no two of %d reads agree; try again when it has been written", e.Reads)
}

// Read calls read until two consecutive calls, Gap apart, agree, and returns the last result. read returns a digest of
// everything that it has read; two errors with the same reason agree as well, so that an error counts only if it lasts.
// It returns an *ChangingError after 12 reads, that is 3 s.
func Read[T any](ctx context.Context, read func() (value T, digest string, err error)) (T, error) {
	return readEvery(ctx, Gap, read)
}

func readEvery[T any](ctx context.Context, gap time.Duration, read func() (T, string, error)) (T, error) {
	var none T
	last := ""
	for n := range maxReads {
		value, digest, err := read()
		if err != nil {
			digest = "error: " + err.Error()
		} else {
			digest = "read: " + digest
		}
		if n > 0 && digest == last {
			return value, err
		}
		last = digest
		if !remote.Pause(ctx, gap) {
			return none, ctx.Err()
		}
	}
	return none, &ChangingError{Reads: maxReads}
}

// Package settled reads what somebody else may be writing. A file is often truncated before it is written, and a
// folder is changed file by file: what one read finds may be half of what is meant.
package settled

import (
	"context"
	"fmt"
	"time"
)

const (
	// Gap is the time between two reads that must agree.
	Gap = 250 * time.Millisecond
	// maxReads bounds how long something that never rests is waited for.
	maxReads = 12
)

// UnsettledError says that what was read never was the same twice in a row.
type UnsettledError struct{ Reads int }

// Error implements error.
func (e *UnsettledError) Error() string {
	return fmt.Sprintf("it is still being written: no two of %d reads agree; try again when it rests", e.Reads)
}

// Read calls read until two calls in a row, Gap apart, agree, and returns what the last one did. read returns a digest
// of all that it has read; one that fails agrees with one that fails for the same reason, so that an error too is
// believed only when it lasts. An *UnsettledError after 12 reads, that is 3 s.
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
		select {
		case <-ctx.Done():
			return none, ctx.Err()
		case <-time.After(gap):
		}
	}
	return none, &UnsettledError{Reads: maxReads}
}

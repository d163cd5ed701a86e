// Package logbuf gives tests a place for a log that several goroutines write while the test reads it.
package logbuf

import (
	"bytes"
	"sync"
)

// Buffer is an io.Writer; the zero Buffer is ready, and safe for concurrent use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what has been written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

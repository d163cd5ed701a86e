// Package check has what the tests of every package need: it stops at an error, waits for a condition, compares with a golden
// file. It imports nothing of cellgate.
package check

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Patience is far longer than anything takes on a slow machine.
const Patience = 2 * time.Minute

// OK ends the test if there is an error. Without one it costs nothing: benchmarks call it in their loops.
func OK(t testing.TB, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

// Read returns the contents of a file.
func Read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file) //nolint:gosec // a test's file
	OK(t, err)
	return b
}

// Write writes a file, with the folders that it needs.
func Write[T ~string | ~[]byte](t testing.TB, file string, contents T) {
	t.Helper()
	OK(t, os.MkdirAll(filepath.Dir(file), 0o750))
	OK(t, os.WriteFile(file, []byte(contents), 0o600))
}

// Replace replaces the first occurrence of a piece of a file, which must be there.
func Replace(t testing.TB, file, piece, text string) {
	t.Helper()
	body := Read(t, file)
	if !bytes.Contains(body, []byte(piece)) {
		t.Fatalf("no %q in %s", piece, body)
	}
	Write(t, file, bytes.Replace(body, []byte(piece), []byte(text), 1))
}

// Eventually waits until a condition holds, and ends the test if it does not within Patience.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	Within(t, Patience, what, func() error {
		if !holds() {
			return errors.New("it does not hold")
		}
		return nil
	})
}

// Within waits until a function returns nil, and ends the test with its last error after limit.
func Within(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(pause(time.Since(began))) {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) >= limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
	}
}

// pause is short at first, for what comes soon, and then leaves the processor to what is waited for.
func pause(waited time.Duration) time.Duration {
	return min(max(waited/100, time.Millisecond), 20*time.Millisecond)
}

var update = flag.Bool("update", false, "write the golden files anew")

// Ended ends a part, which is given some time for it.
func Ended(t testing.TB, end func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := end(ctx); err != nil {
		t.Errorf("end: %v", err)
	}
}

// Golden compares with a golden file, which `go test PACKAGE -update` rewrites.
func Golden(t testing.TB, file, got string) {
	t.Helper()
	if *update {
		OK(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want := Read(t, file)
	if got != string(want) {
		t.Errorf("%s has:\n%s\ngot:\n%s", file, want, got)
	}
}

// Log is a place for a log that several goroutines write while the test reads it. The zero Log is ready.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns what has been written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

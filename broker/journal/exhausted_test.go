package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// TestWithoutDescriptorsTheJournalWaits takes the descriptors away while records are appended and read. Appends are
// withheld, nothing fails, and everything continues when there are descriptors again.
func TestWithoutDescriptorsTheJournalWaits(t *testing.T) {
	t.Parallel()
	var none atomic.Bool
	var denied atomic.Int64
	m := waltest.New()
	m.Opening = func(name string) error {
		if !none.Load() {
			return nil
		}
		if denied.Add(1); name == "/journal" {
			t.Error("a roll takes a descriptor for the directory")
		}
		return &os.PathError{Op: "open", Path: name, Err: syscall.EMFILE}
	}
	fatal := make(chan error, 1)
	j, _, err := Open(completed(Options{
		Dir: "/journal", Machine: Machine{FS: m}, SegmentBytes: 64 << 10, MaxBytes: 64 << 20, OnFatal: func(err error) { fatal <- err },
	}))
	check.OK(t, err)
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	none.Store(true)
	r, err := j.NewReader(1)
	check.OK(t, err)
	defer r.Close() //nolint:errcheck // a test
	none.Store(false)
	var appended uint64
	record := func(i int) []message.Record {
		return []message.Record{{Kind: message.KindPublish, QoS: 1, Topic: "t", Payload: fmt.Appendf(make([]byte, 1000), "%d", i)}}
	}
	for round := range 3 {
		full := false
		for i := 0; !full; i++ {
			if i == 200 { // three segments
				none.Store(true)
			}
			switch seq, err := j.Append(record(i), nil); {
			case errors.Is(err, ErrFull):
				full = true
			case err != nil:
				t.Fatalf("round %d: %v", round, err)
			default:
				appended = seq
			}
		}
		if denied.Swap(0) == 0 {
			t.Fatal("no descriptor was asked for")
		}
		for ok := true; ok; { // the reader waits for descriptors, too
			if _, ok, err = r.TryNext(0); err != nil {
				t.Fatal(err)
			}
		}
		none.Store(false)
		check.OK(t, j.WaitDurable(t.Context(), appended))
		for r.Position() < appended {
			_, err := r.Next(t.Context(), 0)
			check.OK(t, err)
		}
		check.OK(t, j.WaitRoom(t.Context()))
	}
	select {
	case err := <-fatal:
		t.Fatal(err)
	default:
	}
}

// TestDeletedJournalStopsAcknowledgements deletes the journal under the gateway. What is synced then is in a file that
// no start finds, so it must not be reported as durable.
func TestDeletedJournalStopsAcknowledgements(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(dir string) error{
		"deleted": os.RemoveAll,
		"moved":   func(dir string) error { return os.Rename(dir, dir+".old") },
		"replaced": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.CopyFS(dir, os.DirFS(dir+".old")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "journal")
			fatal := make(chan error, 1)
			j, _, err := Open(completed(Options{Dir: dir, SegmentBytes: 64 << 10, OnFatal: func(err error) { fatal <- err }}))
			check.OK(t, err)
			t.Cleanup(func() { _ = j.Close(context.Background()) })
			record := []message.Record{{Kind: message.KindPublish, QoS: 1, Topic: "t", Payload: []byte("x")}}
			first, err := j.Append(record, nil)
			if err = errors.Join(err, j.WaitDurable(t.Context(), first), take(dir)); err != nil {
				t.Fatal(err)
			}
			next, err := j.Append(record, nil)
			if err == nil { // not noticed by the first record's mark
				err = j.WaitDurable(t.Context(), next)
			}
			if !errors.Is(err, errGone) || !errors.Is(<-fatal, errGone) || j.Durable() > first {
				t.Fatalf("durable up to %d, the first was %d: %v", j.Durable(), first, err)
			}
		})
	}
}

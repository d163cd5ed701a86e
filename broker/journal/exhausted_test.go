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

	"cellgate/broker/message"
)

// scarce is a file system for which there are no descriptors while none is set.
type scarce struct {
	FS
	none   atomic.Bool
	denied atomic.Int64
}

func (s *scarce) deny(name string) error {
	if !s.none.Load() {
		return nil
	}
	s.denied.Add(1)
	return &os.PathError{Op: "open", Path: name, Err: syscall.EMFILE}
}

func (s *scarce) Create(name string) (File, error) {
	if err := s.deny(name); err != nil {
		return nil, err
	}
	return s.FS.Create(name)
}

func (s *scarce) Open(name string) (File, error) {
	if err := s.deny(name); err != nil {
		return nil, err
	}
	return s.FS.Open(name)
}

func (s *scarce) OpenWrite(name string) (File, error) {
	if err := s.deny(name); err != nil {
		return nil, err
	}
	return s.FS.OpenWrite(name)
}

func (s *scarce) SyncDir(dir string) error {
	if err := s.deny(dir); err != nil {
		return err
	}
	return s.FS.SyncDir(dir)
}

// TestWithoutDescriptorsTheJournalWaits takes the descriptors away while records come and a reader reads: appends are
// withheld, nothing fails, and everything goes on when there are descriptors again.
func TestWithoutDescriptorsTheJournalWaits(t *testing.T) {
	t.Parallel()
	fs := &scarce{FS: osFS{}}
	fatal := make(chan error, 1)
	j, _, err := Open(Options{
		Dir: filepath.Join(t.TempDir(), "journal"), FS: fs, SegmentBytes: 64 << 10, MaxBytes: 64 << 20, ReserveBytes: -1,
		OnFatal: func(err error) { fatal <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	fs.none.Store(true)
	r, err := j.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // a test
	fs.none.Store(false)
	var appended uint64
	record := func(i int) []message.Record {
		return []message.Record{{Kind: message.KindPublish, QoS: 1, Topic: "t", Payload: fmt.Appendf(make([]byte, 1000), "%d", i)}}
	}
	for round := range 3 {
		full := false
		for i := 0; !full; i++ {
			if i == 200 { // three segments
				fs.none.Store(true)
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
		if fs.denied.Swap(0) == 0 {
			t.Fatal("no descriptor was asked for")
		}
		for ok := true; ok; { // the reader waits for descriptors, too
			if _, ok, err = r.TryNext(0); err != nil {
				t.Fatal(err)
			}
		}
		fs.none.Store(false)
		if err := j.WaitDurable(t.Context(), appended); err != nil {
			t.Fatal(err)
		}
		for r.Position() < appended {
			if _, err := r.Next(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.WaitRoom(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-fatal:
		t.Fatal(err)
	default:
	}
}

// TestARollTakesNoDescriptor rolls segments on the real file system with the directory's name taken away: the journal has it
// at hand.
func TestARollTakesNoDescriptor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	held, release, err := osFS{}.holding(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := held.SyncDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(release(), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
}

// TestADeletedJournalAcknowledgesNothing deletes the journal under the gateway: what is synced then is on a disk where no start
// finds it, and nobody is told that it is durable.
func TestADeletedJournalAcknowledgesNothing(t *testing.T) {
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
			j, _, err := Open(Options{Dir: dir, SegmentBytes: 64 << 10, ReserveBytes: -1, OnFatal: func(err error) { fatal <- err }})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = j.Close(context.Background()) })
			record := []message.Record{{Kind: message.KindPublish, QoS: 1, Topic: "t", Payload: []byte("x")}}
			seq, err := j.Append(record, nil)
			if err = errors.Join(err, j.WaitDurable(t.Context(), seq), take(dir)); err != nil {
				t.Fatal(err)
			}
			if seq, err = j.Append(record, nil); err == nil {
				err = j.WaitDurable(t.Context(), seq)
			}
			if !errors.Is(err, errGone) || !errors.Is(<-fatal, errGone) || j.Durable() >= seq {
				t.Fatalf("durable up to %d of %d: %v", j.Durable(), seq, err)
			}
		})
	}
}

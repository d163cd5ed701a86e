package journal

import (
	"bytes"
	"errors"
	"runtime"
	"sync"
	"testing"

	"cellgate/broker/wal"
	"cellgate/test/check"
)

// zeroes is a file system that records which parts of new files are zeroed, and fails on demand.
type zeroes struct {
	wal.FS
	fail   error
	before func()

	mu    sync.Mutex
	parts [][2]int64
}

type zeroedFile struct {
	wal.File
	fs *zeroes
}

func (z *zeroes) Create(name string) (wal.File, error) {
	f, err := z.FS.Create(name)
	return zeroedFile{f, z}, err
}

func (f zeroedFile) Zero(from, to int64) error {
	f.fs.mu.Lock()
	f.fs.parts = append(f.fs.parts, [2]int64{from, to})
	f.fs.mu.Unlock()
	if f.fs.before != nil {
		f.fs.before()
	}
	if f.fs.fail != nil {
		return f.fs.fail
	}
	return f.File.Zero(from, to)
}

func idleKeeper(t *testing.T, fs *zeroes, segmentBytes int64) *keeper {
	t.Helper()
	o := completed(Options{Dir: t.TempDir(), SegmentBytes: segmentBytes, MaxBytes: 100 * segmentBytes})
	fs.FS = o.FS
	o.FS = fs
	held, err := o.FS.OpenDir(o.Dir)
	check.OK(t, err)
	k := newKeeper(&o, held, &table{}, 1)
	close(k.done)
	t.Cleanup(func() { check.OK(t, errors.Join(k.close(), held.Close())) })
	return k
}

// TestNewSegmentsAreWrittenOnce checks that a new file, except its headers, is written before the committer needs it,
// and that a recycled one is not.
func TestNewSegmentsAreWrittenOnce(t *testing.T) {
	t.Parallel()
	fs := &zeroes{}
	k := idleKeeper(t, fs, 3*zeroBytes+wal.SegmentStart/2)
	check.OK(t, k.provide())
	for _, some := k.zeroPause(); some; _, some = k.zeroPause() {
		k.zero()
	}
	at := int64(wal.SegmentStart)
	for _, p := range fs.parts {
		if p[0] != at || p[1] <= at || p[1] > at+zeroBytes {
			t.Errorf("zeros from %d to %d, want from %d", p[0], p[1], at)
		}
		at = p[1]
	}
	if at != k.segmentBytes {
		t.Errorf("zeros up to %d of %d bytes", at, k.segmentBytes)
	}
	s, err := k.pop()
	check.OK(t, err)
	s.salt, s.zeroed = 7, 0
	k.push(s)
	if _, some := k.zeroPause(); some {
		t.Error("a file that was used before is written to")
	}
}

// TestZerosAreNotTriedAgain checks that a file on which writing zeros fails is used as it is.
func TestZerosAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	fs := &zeroes{fail: errors.New("no")}
	k := idleKeeper(t, fs, 3*zeroBytes)
	check.OK(t, k.provide())
	k.zero()
	if _, some := k.zeroPause(); some || len(fs.parts) != 1 {
		t.Errorf("%d attempts, and there is more to do: %t", len(fs.parts), some)
	}
	if _, err := k.pop(); err != nil {
		t.Error(err)
	}
}

// TestZerosNeverMeetRecords checks that no zeros are written once the committer has a file, not even by a write in
// progress.
func TestZerosNeverMeetRecords(t *testing.T) {
	t.Parallel()
	begun, asked := make(chan struct{}), make(chan struct{})
	fs := &zeroes{before: func() {
		close(begun)
		<-asked
		for range 1000 { // a committer that did not wait would have the file meanwhile
			runtime.Gosched()
		}
	}}
	k := idleKeeper(t, fs, 2*zeroBytes)
	check.OK(t, k.provide())
	zeroed := make(chan struct{})
	go func() {
		defer close(zeroed)
		k.zero()
	}()
	<-begun
	close(asked)
	s, err := k.pop()
	check.OK(t, err)
	records := bytes.Repeat([]byte{1}, 100)
	_, err = s.file.WriteAt(records, wal.SegmentStart)
	check.OK(t, err)
	<-zeroed
	got := make([]byte, len(records))
	_, err = s.file.ReadAt(got, wal.SegmentStart)
	check.OK(t, err)
	if !bytes.Equal(got, records) {
		t.Error("zeros over what was written")
	}
	check.OK(t, s.file.Close())
}

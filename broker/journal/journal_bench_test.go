package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/bbolt"

	"cellgate/broker/message"
)

const benchPayload = 256

func benchRecord() message.Record {
	return message.Record{
		Kind: message.KindPublish, QoS: 1, PacketID: 77, Client: "LSVAB2180E2100123",
		Topic: "v1/LSVAB2180E2100123/up/telemetry", Payload: make([]byte, benchPayload),
	}
}

// store is a durable log: append returns once the record is on disk.
type store interface {
	append(producer int) error
	io.Closer
}

type journalStore struct {
	j    *Journal
	recs [][]message.Record
}

func (s journalStore) append(p int) error {
	seq, err := s.j.Append(s.recs[p], nil)
	if err != nil {
		return err
	}
	return s.j.WaitDurable(context.Background(), seq)
}

func (s journalStore) Close() error { return s.j.Close(context.Background()) }

type pebbleStore struct {
	db   *pebble.DB
	next *atomic.Uint64
	recs [][]message.Record
}

func (s pebbleStore) append(p int) error {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], s.next.Add(1))
	value := s.recs[p][0].Append(make([]byte, 0, 512), 0)
	return s.db.Set(key[:], value, pebble.Sync)
}

func (s pebbleStore) Close() error { return s.db.Close() }

type boltStore struct {
	db   *bbolt.DB
	next *atomic.Uint64
	recs [][]message.Record
	do   func(func(*bbolt.Tx) error) error // Update, or Batch when there are many
}

func (s boltStore) append(p int) error {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], s.next.Add(1))
	value := s.recs[p][0].Append(make([]byte, 0, 512), 0)
	return s.do(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("log")).Put(key[:], value) })
}

func (s boltStore) Close() error { return s.db.Close() }

func openStore(b *testing.B, kind string, producers int) store {
	b.Helper()
	dir := b.TempDir()
	recs := make([][]message.Record, producers)
	for i := range recs {
		recs[i] = []message.Record{benchRecord()}
	}
	var err error
	switch kind {
	case "journal":
		var j *Journal
		if j, _, err = Open(Options{Dir: dir}); err == nil {
			j.Retain("none", 1<<62)
			return journalStore{j, recs}
		}
	case "pebble":
		var db *pebble.DB
		if db, err = pebble.Open(dir, &pebble.Options{Logger: quiet{}}); err == nil {
			return pebbleStore{db, new(atomic.Uint64), recs}
		}
	case "bbolt":
		var db *bbolt.DB
		if db, err = bbolt.Open(filepath.Join(dir, "db"), 0o600, nil); err == nil {
			if err = db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("log")); return err }); err != nil {
				b.Fatal(err)
			}
			do := db.Batch // waits up to 10 ms for others
			if producers == 1 {
				do = db.Update
			}
			return boltStore{db, new(atomic.Uint64), recs, do}
		}
	}
	if err == nil {
		err = errors.New("unknown store")
	}
	b.Fatal(err)
	return nil
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}

// BenchmarkAppend compares durable appends of 256 B by producers that each wait for their own.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 64, 2000} {
		for _, kind := range []string{"journal", "pebble", "bbolt"} {
			b.Run(fmt.Sprintf("%s/producers=%d", kind, producers), func(b *testing.B) {
				s := openStore(b, kind, producers)
				defer func() { _ = s.Close() }()
				b.SetBytes(benchPayload)
				b.ReportAllocs()
				b.ResetTimer()
				appendAll(b, s, producers)
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}

// appendAll shares b.N appends between the producers.
func appendAll(b *testing.B, s store, producers int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := s.append(p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

type ackWaiter struct{ mark atomic.Uint64 }

func (w *ackWaiter) Durable(mark uint64) { w.mark.Store(mark) }

// BenchmarkAppendCPU is the hot path alone: encoding under the lock, checksum and batching, on a file
// system that costs nothing.
func BenchmarkAppendCPU(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			j, _, err := Open(Options{Dir: "/null", FS: nullFS{}})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = j.Close(context.Background()) }()
			j.Retain("none", 1<<62)
			recs := make([]message.Record, n)
			for i := range recs {
				recs[i] = benchRecord()
			}
			w := &ackWaiter{}
			b.SetBytes(int64(n * benchPayload))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := j.Append(recs, w); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkRead reads back what is there, and passes over it by header.
func BenchmarkRead(b *testing.B) {
	j, _, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = j.Close(context.Background()) }()
	recs := make([]message.Record, 64)
	for i := range recs {
		recs[i] = benchRecord()
	}
	var last uint64
	for range 2000 {
		if last, err = j.Append(recs, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.WaitDurable(context.Background(), last); err != nil {
		b.Fatal(err)
	}
	for name, want := range map[string]message.Flags{"all": 0, "none by flags": message.FlagResult} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(last) * benchPayload)
			b.ReportAllocs()
			for b.Loop() {
				r, err := j.NewReader(1)
				if err != nil {
					b.Fatal(err)
				}
				for r.Position() < last {
					if _, _, err := r.TryNext(want); err != nil {
						b.Fatal(err)
					}
				}
				_ = r.Close()
			}
			b.ReportMetric(float64(last)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// nullFS keeps nothing.
type nullFS struct{}

func (nullFS) MkdirAll(string) error          { return nil }
func (nullFS) List(string) ([]string, error)  { return nil, nil }
func (nullFS) Create(string) (File, error)    { return nullFile{}, nil }
func (nullFS) Open(string) (File, error)      { return nullFile{}, nil }
func (nullFS) OpenWrite(string) (File, error) { return nullFile{}, nil }
func (nullFS) Rename(string, string) error    { return nil }
func (nullFS) Remove(string) error            { return nil }
func (nullFS) SyncDir(string) error           { return nil }
func (nullFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
func (nullFS) Free(string) (int64, error)     { return 1 << 40, nil }

type nullFile struct{}

func (nullFile) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (nullFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (nullFile) Close() error                           { return nil }
func (nullFile) Size() (int64, error)                   { return DefaultSegmentBytes, nil }
func (nullFile) Preallocate(int64) error                { return nil }
func (nullFile) Sync() error                            { return nil }
func (nullFile) SyncData() error                        { return nil }

package journal

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/test/check"
)

const benchPayload = 256

func benchRecord() message.Record {
	return message.Record{
		Kind: message.KindPublish, QoS: 1, PacketID: 77, Client: "LSVAB2180E2100123",
		Topic: "v1/LSVAB2180E2100123/up/telemetry", Payload: make([]byte, benchPayload),
	}
}

// BenchmarkAppend measures durable appends of 256 B by producers that each wait for their own. test/bench compares them
// with other stores.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 64, 2000} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			j, _, err := Open(completed(Options{Dir: b.TempDir()}))
			check.OK(b, err)
			defer func() { _ = j.Close(context.Background()) }()
			j.Retain("none", 1<<62)
			b.SetBytes(benchPayload)
			b.ReportAllocs()
			b.ResetTimer()
			appendAll(b, j, producers)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}

// appendAll shares b.N appends between the producers.
func appendAll(b *testing.B, j *Journal, producers int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range producers {
		recs := []message.Record{benchRecord()}
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				seq, err := j.Append(recs, nil)
				if err == nil {
					err = j.WaitDurable(context.Background(), seq)
				}
				if err != nil {
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

// BenchmarkAppendCPU measures the hot path alone: encoding under the lock, checksum and batching, on a file system that
// does nothing.
func BenchmarkAppendCPU(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			j, _, err := Open(completed(Options{Dir: "/null", Machine: Machine{FS: nullFS{}}}))
			check.OK(b, err)
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
				_, err := j.Append(recs, w)
				check.OK(b, err)
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkRead reads the records, and passes over them by header.
func BenchmarkRead(b *testing.B) {
	j, _, err := Open(completed(Options{Dir: b.TempDir()}))
	check.OK(b, err)
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
	check.OK(b, j.WaitDurable(context.Background(), last))
	for name, want := range map[string]message.Flags{"all": 0, "none by flags": message.FlagResult} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(last) * benchPayload)
			b.ReportAllocs()
			for b.Loop() {
				r, err := j.NewReader(1)
				check.OK(b, err)
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

type nullFS struct{ wal.FS }

func (nullFS) MkdirAll(string) error              { return nil }
func (nullFS) List(string) ([]string, error)      { return nil, nil }
func (nullFS) Create(string) (wal.File, error)    { return nullFile{}, nil }
func (nullFS) OpenWrite(string) (wal.File, error) { return nullFile{}, nil }
func (nullFS) OpenDir(string) (wal.Dir, error)    { return nullFile{}, nil }
func (nullFS) Rename(string, string) error        { return nil }
func (nullFS) Remove(string) error                { return nil }
func (nullFS) Lock(string) (io.Closer, error)     { return nullFile{}, nil }
func (nullFS) Free(string) (int64, error)         { return 1 << 40, nil }

type nullFile struct{ wal.File }

func (nullFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (nullFile) Size() (int64, error)                   { return 64 << 20, nil }
func (nullFile) Close() error                           { return nil }
func (nullFile) Preallocate(int64) error                { return nil }
func (nullFile) Sync() error                            { return nil }
func (nullFile) SyncData() error                        { return nil }
func (nullFile) InPlace(string) bool                    { return true }

package command

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// BenchmarkCreate accepts commands from many concurrent callers, each on disk before the answer. It reports the
// commands per transaction.
func BenchmarkCreate(b *testing.B) {
	db, err := statefile.Open(filepath.Join(b.TempDir(), "state.db"), statefile.Options{Sync: statefile.SyncAlways})
	check.OK(b, err)
	defer db.Close() //nolint:errcheck // the end of the benchmark
	s, err := Open(completed(Options{DB: db, Deliverer: newEngine(0), MaxOpen: 10_000_000, MaxQueued: 10_000_000}))
	check.OK(b, err)
	defer s.Close(context.Background()) //nolint:errcheck // the end of the benchmark
	transactions := func() (n int) {
		_ = db.View(func(tx *statefile.Tx) error { n = tx.ID(); return nil })
		return n
	}
	before := transactions()
	var vehicle atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		r := Request{VIN: "V" + strconv.FormatInt(vehicle.Add(1), 10), Name: "lock", Payload: []byte(`{"doors":"all"}`), JSON: true}
		for pb.Next() {
			if _, _, err := s.Create(context.Background(), r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(transactions()-before), "commands/transaction")
}

// BenchmarkRemembered reads what a gateway offers in the slots of a server of a Redis cluster with three, after 1,000 commands
// since the last time.
func BenchmarkRemembered(b *testing.B) {
	db := openDB(b)
	s := start(b, Options{DB: db, Deliverer: newEngine(0)})
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		in := inACluster(b, db)
		for _, err := range in.Remembered(0) { // builds the index
			check.OK(b, err)
		}
		for j := range 1000 {
			if _, _, err := s.Create(b.Context(), Request{VIN: fmt.Sprintf("V%d", j), ID: fmt.Sprintf("c%d-%d", i, j), Name: "lock", TTL: time.Hour}); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		for slot := range in.o.Cell.Store.Slots() / 3 {
			for _, err := range in.Remembered(slot) {
				check.OK(b, err)
			}
		}
	}
}

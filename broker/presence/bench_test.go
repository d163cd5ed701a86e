package presence

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// BenchmarkConnect measures one vehicle's connect from the report of its two events to their publication, with the
// transactions' syncs, while 50,000 other vehicles are connected.
func BenchmarkConnect(b *testing.B) {
	db, err := statefile.Open(filepath.Join(b.TempDir(), "state.db"), statefile.Options{Sync: statefile.SyncAlways})
	check.OK(b, err)
	o, err := Open(Options{
		DB: db, Epoch: 1, MaxWaiting: 1 << 30, MaxVehicles: 1 << 30, Wall: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
		Publish: func(context.Context, []Event) (int, error) { return 0, nil },
	})
	check.OK(b, err)
	o.Start()
	report := func(n int) {
		vin := fmt.Sprintf("LTEST%012d", n*7919%1_000_003)
		o.Report(vin, Connected, time.UnixMilli(1), "")
		o.Report(vin, Ready, time.UnixMilli(1), "")
	}
	for n := range 50_000 {
		report(n)
	}
	check.Eventually(b, "all is published", func() bool { return o.waiting() == 0 })
	for n := 50_000; b.Loop(); n++ {
		report(n)
	}
	check.Eventually(b, "all is published", func() bool { return o.waiting() == 0 })
	check.OK(b, o.Close(b.Context()))
	check.OK(b, db.Close())
}

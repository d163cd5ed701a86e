package sink_test

import (
	"fmt"
	"testing"
	"time"

	"cellgate/rules/sink"
	"cellgate/test/check"
)

// BenchmarkCheckpoint is one checkpoint after so many VINs were seen for the first time, and how long another part of the
// gateway waits for state.db meanwhile. Nothing is synced.
func BenchmarkCheckpoint(b *testing.B) {
	for _, vins := range []int{20_000, 200_000} {
		b.Run(fmt.Sprint(vins), func(b *testing.B) {
			var wait, longest time.Duration
			for range b.N {
				b.StopTimer()
				r := newStateRig(b, func(o *sink.Options) { o.SegmentBytes, o.State.MaxVINs = 8<<20, 1_000_000 })
				r.send(0, vins, 0)
				stop, done := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					for {
						select {
						case <-stop:
							return
						default:
							begin := time.Now()
							r.Write(b)
							wait = max(wait, time.Since(begin))
						}
					}
				}()
				b.StartTimer()
				check.OK(b, r.Dispatcher.Checkpoint())
				b.StopTimer()
				close(stop)
				<-done
				longest = max(longest, wait)
				r.Kill()
			}
			b.ReportMetric(float64(longest.Microseconds())/1000, "ms-waited")
		})
	}
}

// BenchmarkStartWithState is a start of the dispatcher that reads what operators remember of so many VINs.
func BenchmarkStartWithState(b *testing.B) {
	for _, vins := range []int{200_000, 1_000_000} {
		b.Run(fmt.Sprint(vins), func(b *testing.B) {
			r := newStateRig(b, func(o *sink.Options) { o.SegmentBytes, o.State.MaxVINs = 8<<20, 1_200_000 })
			r.send(0, vins, 0)
			r.checkpoint(b)
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				r.Kill()
				b.StartTimer()
				r.Open()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(vins), "ns/VIN")
		})
	}
}

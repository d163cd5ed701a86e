package sink_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/sink"
	"cellgate/test/check"
)

// BenchmarkCheckpoint measures one checkpoint after so many new VINs, and how long another part of the gateway waits
// for state.db meanwhile. Nothing is synced.
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

// BenchmarkStartWithState measures a start of the dispatcher that reads the operators' state of so many VINs.
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

// BenchmarkAcknowledgements measures the longest time until a record is durable and until it is evaluated, while idle
// and while a checkpoint writes the changed state of so many VINs.
func BenchmarkAcknowledgements(b *testing.B) {
	const vins = 200_000
	var idle, during [2]time.Duration
	for range b.N {
		b.StopTimer()
		r := newStateRig(b, func(o *sink.Options) { o.SegmentBytes, o.State.MaxVINs = 8<<20, 1_000_000 })
		r.send(0, vins, 0)
		quiet := r.acknowledge(b, func() { time.Sleep(500 * time.Millisecond) })
		b.StartTimer()
		busy := r.acknowledge(b, func() { check.OK(b, r.Dispatcher.Checkpoint()) })
		b.StopTimer()
		for i := range quiet {
			idle[i], during[i] = max(idle[i], quiet[i]), max(during[i], busy[i])
		}
		r.Kill()
	}
	for i, what := range []string{"acknowledged", "evaluated"} {
		b.ReportMetric(float64(idle[i].Microseconds())/1000, "ms-"+what+"-idle")
		b.ReportMetric(float64(during[i].Microseconds())/1000, "ms-"+what)
	}
}

// acknowledge appends messages one after the other while f runs, and returns the longest time until one was durable,
// and until one was evaluated.
func (r *stateRig) acknowledge(b *testing.B, f func()) (longest [2]time.Duration) {
	b.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			begin := time.Now()
			r.Append(message.Record{Kind: message.KindPublish, QoS: 1, PacketID: 1, Topic: "v1/" + scattered(0) + "/up/t", Payload: []byte(`{"n":0}`)})
			longest[0] = max(longest[0], time.Since(begin))
			for last := r.Journal.Last(); r.Dispatcher.Position() < last; {
				runtime.Gosched()
			}
			longest[1] = max(longest[1], time.Since(begin))
		}
	}()
	f()
	close(stop)
	<-done
	return longest
}

package rules

import (
	"fmt"
	"testing"
)

// BenchmarkNewVIN evaluates messages of which each is the first of its VIN, once the bound of VINs is reached.
func BenchmarkNewVIN(b *testing.B) {
	for _, bound := range []int{200_000, 1_000_000} {
		b.Run(fmt.Sprint(bound), func(b *testing.B) {
			set := compileText(b, `rules: [{id: s, from: ["v1/+/up/#"], sample: 10s, to: [{kafka: {topic: t}}]}]`)
			w := NewEngine(set, NewState(StateOptions{MaxVINs: bound})).NewWorker()
			rec := telemetry(1, epoch, `{}`)
			var ds []Decision
			send := func(i int) {
				rec.Seq, rec.ReceivedAt = uint64(i+1), epoch+int64(i/20) //nolint:gosec // positive
				rec.Topic = fmt.Sprintf("v1/L%016d/up/t", i)
				ds = w.Eval(&rec, ds[:0])
			}
			for i := range bound + bound/8 {
				send(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				send(2*bound + i)
			}
		})
	}
}

package engine

import (
	"fmt"
	"testing"

	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// BenchmarkNewVIN evaluates messages that are each the first of their VIN, once the bound of VINs is reached.
func BenchmarkNewVIN(b *testing.B) {
	for _, bound := range []int{200_000, 1_000_000} {
		b.Run(fmt.Sprint(bound), func(b *testing.B) {
			set := rulestest.Compile(b, `rules: [{id: s, from: ["v1/+/up/#"], sample: 10s, to: [{kafka: {topic: t}}]}]`)
			w := NewEngine(set, state.NewState(state.StateOptions{MaxVINs: bound})).NewWorker()
			rec := rulestest.Telemetry(1, rulestest.Epoch, `{}`)
			var ds []Decision
			send := func(i int) {
				rec.Seq, rec.ReceivedAt = uint64(i+1), rulestest.Epoch+int64(i/20) //nolint:gosec // positive
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

package broker

import (
	"fmt"
	"testing"

	"cellgate/broker/message"
	"cellgate/broker/session"
)

// BenchmarkMatch is what a message costs the index, by its subscribers.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("%d of one filter", n), func(b *testing.B) {
			x := NewIndex()
			for i := range n {
				x.Subscribe(fmt.Sprintf("svc/%d", i), session.Subscription{Filter: "v1/+/up/#", QoS: 1}, 0)
			}
			rec := message.Record{Topic: "v1/" + testVIN + "/up/telemetry", Seq: 1}
			b.ReportAllocs()
			for b.Loop() {
				x.Match(&rec, func(string, session.Matched) {})
			}
		})
	}
}

package broker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"
)

// BenchmarkMatch measures Match by the number of subscribers.
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

// BenchmarkMatchDeep measures Match of the costliest topic with as many of the costliest filters as one subject may
// have. A filter counts once for every eight levels.
func BenchmarkMatchDeep(b *testing.B) {
	x := NewIndex()
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 250 {
		name := []byte("v1/+/up" + strings.Repeat("/x", 29))
		for at := 8; at < len(name); at += 2 {
			if rnd.IntN(2) == 0 {
				name[at] = '+'
			}
		}
		x.Subscribe(fmt.Sprintf("svc/%d", i), session.Subscription{Filter: string(name), QoS: 1}, 0)
	}
	rec := message.Record{Topic: "v1/" + testVIN + "/up" + strings.Repeat("/x", 29), Seq: 1}
	b.ReportAllocs()
	for b.Loop() {
		x.Match(&rec, func(string, session.Matched) {})
	}
}

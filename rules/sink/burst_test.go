package sink_test

import (
	"fmt"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
)

// TestOneMessageFillsNoMemory checks that the many messages made of one with a long list are delivered as the sink has
// room, also over kills, and that none is repeated or missing.
func TestOneMessageFillsNoMemory(t *testing.T) {
	t.Parallel()
	const elements, targets, limit, most = 100, 16, 64, 64 + 256
	kafka := sinktest.NewMemory(op.SinkKafka)
	var to strings.Builder
	for i := range targets {
		fmt.Fprintf(&to, "{kafka: {topic: t%d}},", i)
	}
	r := sinktest.New(t, sinktest.Setup{
		Rules: "rules:\n  - {id: all, from: [\"v1/+/up/list\"], each: payload.l, transform: {all: payload}, to: [" + to.String() + "]}\n" +
			"  - {id: one, from: [\"v1/+/up/telemetry\"], to: [{kafka: {topic: one}}]}\n",
		Sinks: func() []sink.Binding {
			return []sink.Binding{{Sink: kafka, Limits: sink.Limits{Messages: limit, Bytes: 1 << 30}}}
		},
	})
	list := message.Record{
		Kind: message.KindPublish, QoS: 1, PacketID: 1, Client: sinktest.VIN(1), Topic: "v1/" + sinktest.VIN(1) + "/up/list",
		Payload: []byte(`{"l":[` + strings.TrimSuffix(strings.Repeat("1,", elements), ",") + `]}`),
	}
	kafka.Hold(true)
	for i := range 3 {
		r.Append(list)
		r.Publish(i, 1)
	}
	r.Await(func() bool { return r.Dispatcher.Ledger()[0].Unevaluated == 0 && kafka.Peak() > 0 })
	kafka.Hold(false)
	r.Settled()
	if p := kafka.Peak(); p > most {
		t.Errorf("%d messages were in the sink's memory, more than %d", p, most)
	}
	seen := map[string]int{}
	for _, m := range kafka.Taken() {
		seen[strings.Join([]string{m.ID, m.Rule, m.Topic, m.Item}, " ")]++
	}
	if len(seen) != 3*elements*targets+3 || len(kafka.Taken()) != len(seen) {
		t.Errorf("%d messages, %d different, want %d", len(kafka.Taken()), len(seen), 3*elements*targets+3)
	}
	r.Balanced()
	r.Stop()
}

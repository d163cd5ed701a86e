package kafka_test

import (
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/fakekafka"
)

// TestTraceParent checks that a vehicle's traceparent, and no other property, reaches Kafka under its own name.
func TestTraceParent(t *testing.T) {
	t.Parallel()
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for value, want := range map[string]string{
		good: good, "cc" + good[2:] + "-more": "cc" + good[2:] + "-more",
		good + "-more": "", "ff" + good[2:]: "", strings.ToUpper(good): "", good[:54]: "", "": "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": "", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": "",
		strings.Replace(good, "-", "a", 1): "", good[:54] + "g": "",
	} {
		c := cluster(t)
		r := newRig(t, c, 0)
		rec := sinktest.Telemetry(1)
		rec.Props.User = []message.UserProperty{{Name: "traceparent", Value: value}, {Name: "traceparent", Value: good}}
		if want == "" {
			rec.Props.User = rec.Props.User[:1]
		}
		r.Append(rec)
		r.Settled()
		got := fakekafka.ReadDifferent(t, c, "t", 1)[0]
		if header(got, "traceparent") != want || header(got, "mqtt-traceparent") != value {
			t.Errorf("%q: %v, want %q", value, got.Headers, want)
		}
		r.Stop()
	}
}

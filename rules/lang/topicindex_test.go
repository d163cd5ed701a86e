package lang

import (
	"fmt"
	"testing"

	"cellgate/broker/shared/message"
)

func TestTopicIndexAgreesWithMatch(t *testing.T) {
	t.Parallel()
	filters := []string{"#", "+", "+/#", "v1/#", "v1/+/up/#", "v1/+/up/telemetry", "v1/+/up/+", "v1/A/up/telemetry", "+/+/up/alarm", "$SYS/#", "/", "+/", "a//b", "a/+/b", "v1/+/up/telemetry/#"}
	var x topicIndex
	for i, f := range filters {
		x.add(f, uint16(i))
		x.add(f, uint16(i))
	}
	for _, topic := range []string{"v1", "v1/A/up/telemetry", "v1/B/up/telemetry/x/y", "v1/A/up/alarm", "$SYS/a", "$SYS", "/", "a//b", "a/c/b", "a", "v1/A/up", ""} {
		var want []uint16
		for i, f := range filters {
			if message.Match(f, topic) {
				want = append(want, uint16(i))
			}
		}
		if got := x.rules(topic, nil); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got %v, want %v", topic, got, want)
		}
	}
}

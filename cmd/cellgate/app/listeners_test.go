package app

import (
	"testing"

	"cellgate/broker"
	"cellgate/broker/message"
	"cellgate/configs"
)

func TestAckModesByClass(t *testing.T) {
	t.Parallel()
	mode, kafka := ackModes(&configs.Uplink{Ack: "journal", AckByClass: map[string]string{"alarm": "kafka", "event": "memory"}})
	if !kafka {
		t.Error("no class waits for kafka")
	}
	for topic, want := range map[string]broker.AckMode{
		"v1/V/up/alarm":      broker.AckKafka,
		"v1/V/up/alarm/deep": broker.AckKafka,
		"v1/V/up/event":      broker.AckMemory,
		"v1/V/up/telemetry":  broker.AckJournal,
		"v1/V/res/1/alarm":   broker.AckJournal,
		"other/alarm":        broker.AckJournal,
	} {
		if got := mode(&message.Record{Topic: topic}); got != want {
			t.Errorf("%s: %d, want %d", topic, got, want)
		}
	}
	if _, kafka := ackModes(&configs.Uplink{Ack: "journal"}); kafka {
		t.Error("nobody waits for kafka by default")
	}
}

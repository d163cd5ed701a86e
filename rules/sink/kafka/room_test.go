package kafka

import (
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// TestWaitingMessagesTakeWhatTheyNeed checks that a message's buffer is not larger than needed: a full window of them
// waits while Kafka is away, and buffers grown by doubling take half as much again.
func TestWaitingMessagesTakeWhatTheyNeed(t *testing.T) {
	t.Parallel()
	const vin = "LTEST000000000001"
	value := []byte(`{"n":1,"soc":78.5,"speed":52.1,"lat":31.2304,"lon":121.4737,"odometer":18233.4}`)
	m := &sink.Message{
		Record: &message.Record{Kind: message.KindPublish, QoS: 1, Client: vin, Topic: "v1/" + vin + "/up/telemetry", Payload: value},
		Out:    &op.Rendered{Topic: "vehicle.telemetry", Key: []byte(vin), Value: value},
	}
	record := New(Options{Cell: "cell-1"}).job(m, sink.Ticket{}).record
	if spare := cap(record.Headers) - len(record.Headers); spare > 128 {
		t.Errorf("%d bytes spare behind headers of %d and a value of %d", spare, len(record.Headers), len(record.Value))
	}
}

package kafka_test

import (
	"context"
	"testing"

	"cellgate/broker/message"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafka"
	"cellgate/rules/sink/kafkaclient"
	"cellgate/rules/sink/sinktest"
)

// away is a producer whose cluster is away: it keeps what it is given.
type away struct {
	kept chan *kafkaclient.Record
}

func (away) Prepare(...string)               {}
func (away) Park(string)                     {}
func (away) Open(string, func() bool)        {}
func (away) Health() kafkaclient.Health      { return kafkaclient.Health{} }
func (away) Close(context.Context) error     { return nil }
func (a away) Produce(r *kafkaclient.Record) { a.kept <- r }

// TestWaitingMessagesTakeWhatTheyNeed holds the buffer of a message to its size: a window full of them waits
// when Kafka is away, and buffers grown by doubling took half as much again.
func TestWaitingMessagesTakeWhatTheyNeed(t *testing.T) {
	t.Parallel()
	p := away{kept: make(chan *kafkaclient.Record, 8)}
	r := sinktest.New(t, sinktest.Setup{Rules: testRules, Sinks: func() []sink.Binding {
		outbox := away{kept: make(chan *kafkaclient.Record, 8)}
		return []sink.Binding{
			{Sink: kafka.New(kafka.Options{Producer: p, Cell: "cell-1"})},
			{Sink: kafka.New(kafka.Options{Producer: outbox, Cell: "cell-1", Outbox: true})},
		}
	}})
	const vin = "LTEST000000000001"
	r.Append(message.Record{
		Kind: message.KindPublish, QoS: 1, Client: vin, Topic: "v1/" + vin + "/up/telemetry",
		Payload: []byte(`{"n":1,"soc":78.5,"speed":52.1,"lat":31.2304,"lon":121.4737,"odometer":18233.4}`),
	})
	record := <-p.kept
	if spare := cap(record.Headers) - len(record.Headers); spare > 128 {
		t.Errorf("%d bytes spare behind headers of %d and a value of %d", spare, len(record.Headers), len(record.Value))
	}
	r.Stop()
}

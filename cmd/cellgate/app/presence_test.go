package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/broker/presence"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// An event refused permanently by Kafka does not affect those that are still under way.
func TestRefusedPresenceLeavesTheOthers(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(2, topicPresence))
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		part := req.Topics[0].Partitions[0].Partition
		if part != 0 {
			return nil, errors.New("away"), true
		}
		resp, topic, answer := req.ResponseKind().(*kmsg.ProduceResponse), kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		answer.Partition, answer.ErrorCode = part, 44 // POLICY_VIOLATION
		topic.Topic, topic.Partitions = req.Topics[0].Topic, append(topic.Partitions, answer)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	a, _ := boot(t, writeCentre(t, t.TempDir(), c, fakekafka.Cluster(t), ""))
	m := kafkaclient.NewMetrics(prometheus.NewRegistry())
	o, err := producerOptions("kafka", "presence", &a.cfg.Kafka, slog.New(slog.DiscardHandler), m)
	check.OK(t, err)
	producer, err := kafkaclient.NewProducer(o)
	check.OK(t, err)
	topic := &presenceTopic{cell: "c", node: "n", producer: producer, log: slog.New(slog.DiscardHandler)}
	var events []presence.Event
	for n := range 20 {
		events = append(events, presence.Event{VIN: fmt.Sprintf("LTEST%012d", n), Kind: presence.Connected, At: 1})
	}
	done := make(chan error, 1)
	go func() {
		_, err := topic.publish(t.Context(), events)
		done <- err
	}()
	check.Eventually(t, "some are refused", func() bool { return testutil.ToFloat64(m.Records.WithLabelValues("presence", "refused")) > 0 })
	ended, end := context.WithCancel(t.Context())
	end()
	_ = producer.Close(ended) // waiting events are dropped
	if err := <-done; err == nil {
		t.Error("what Kafka has not answered counts as published")
	}
}

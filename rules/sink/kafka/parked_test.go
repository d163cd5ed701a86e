package kafka_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/broker/shared/message"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

const parkedRules = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to: [{kafka: {topic: t}}]
  - id: third
    from: ["v1/+/up/telemetry"]
    when: payload.h == 0
    to: [{kafka: {topic: other}}]
  - id: broken
    from: ["v1/+/up/bad"]
    when: payload.x > 3
    to: [{kafka: {topic: t}}]
`

// inOrderByKey checks that the messages of each key came in the order sent, apart from repetitions.
func inOrderByKey(t *testing.T, recs []*kgo.Record) {
	t.Helper()
	seen, last := map[string]bool{}, map[string]int{}
	for _, r := range recs {
		key := string(r.Key)
		if seen[key+string(r.Value)] {
			continue
		}
		seen[key+string(r.Value)] = true
		n := 0
		_, err := fmt.Sscanf(string(r.Value), `{"n":%d,`, &n)
		check.OK(t, err)
		if n < last[key] {
			t.Fatalf("%s: message %d came behind %d (partition %d)", key, n, last[key], r.Partition)
		}
		last[key] = n
	}
}

func parked(r *sinktest.Rig) string {
	var names []string
	for _, p := range r.Dispatcher.Parked() {
		names = append(names, p.Destination)
	}
	return strings.Join(names, " ")
}

// A missing topic holds up neither another topic nor the cursor, also over a crash. Once it is created, its messages
// come in order.
func TestAMissingTopicHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	r := newRigWith(t, c, 64, parkedRules, nil)
	r.Publish(0, 1500)
	r.Await(func() bool { r.Balanced(); return r.Ledger("kafka").Delivered == 1000 })
	r.Await(func() bool { return parked(r) == "other" && r.Dispatcher.Lag()[0].Cursor == r.Journal.Last() })
	r.Kill()
	r.Open()
	r.Publish(1500, 1500)
	r.Await(func() bool { r.Balanced(); return r.Ledger("kafka").Delivered >= 2000 })
	if l := r.Ledger("kafka"); l.Pending != 1000 {
		t.Fatalf("ledger %+v", l)
	}
	check.OK(t, c.CreateTopic("other", 2, nil))
	r.Settled()
	r.Await(func() bool { return parked(r) == "" })
	r.Publish(3000, 30)
	r.Settled()
	inOrderByKey(t, fakekafka.ReadDifferent(t, c, "other", 1010))
	inOrderByKey(t, fakekafka.ReadDifferent(t, c, "t", 3030))
	r.Stop()
}

// A missing error topic holds up nothing, not even dead letters that a vehicle causes with undecodable messages.
func TestMissingErrorTopicDelaysNothing(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	check.OK(t, c.CreateTopic("other", 2, nil))
	r := newRigWith(t, c, 64, parkedRules, nil)
	for i := range 10 {
		var recs []message.Record
		for range 50 {
			recs = append(recs, message.Record{
				Kind: message.KindPublish, QoS: 1, Client: "s", Topic: "v1/" + sinktest.VIN(1) + "/up/bad", Payload: []byte("no JSON"),
			})
		}
		r.Append(recs...)
		r.Publish(100*i, 100)
	}
	r.Await(func() bool { r.Balanced(); return r.Ledger("kafka").Delivered == 1000 })
	r.Await(func() bool { return parked(r) == rulestest.ErrorTopic })
	check.OK(t, c.CreateTopic(rulestest.ErrorTopic, 1, nil))
	r.Settled()
	if l := r.Ledger("kafka"); l.DeadLettered != 500 {
		t.Fatalf("ledger %+v", l)
	}
	r.Stop()
}

// A partition that takes nothing, for example without enough replicas, holds up no other partition and no other topic.
func TestStalledPartitionDelaysNoOther(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	check.OK(t, c.CreateTopic("other", 1, nil))
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t", Partitions: []int32{1}, Err: kerr.NotEnoughReplicas, Count: -1})
	defer h.Remove()
	r := newRigWith(t, c, 64, parkedRules, nil)
	r.Publish(0, 1000)
	r.Await(func() bool {
		r.Balanced()
		return parked(r) == "t/1" && r.Dispatcher.Lag()[0].Cursor == r.Journal.Last()
	})
	waiting := r.Ledger("kafka").Pending
	if waiting == 0 || waiting > 700 {
		t.Fatalf("ledger %+v", r.Ledger("kafka"))
	}
	h.Remove()
	r.Settled()
	r.Await(func() bool { return parked(r) == "" })
	inOrderByKey(t, fakekafka.ReadDifferent(t, c, "t", 1000))
	inOrderByKey(t, fakekafka.ReadDifferent(t, c, "other", 334))
	r.Stop()
}

// A topic recreated with fewer or more partitions takes messages again without a restart. Only what was deleted with
// the previous topic is missing.
func TestRecreatedTopicAcceptsMessages(t *testing.T) {
	t.Parallel()
	for name, partitions := range map[string]int32{"fewer": 1, "as many": 3, "more": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := cluster(t)
			check.OK(t, c.CreateTopic("other", 2, nil))
			r := newRigWith(t, c, 64, parkedRules, nil)
			r.Publish(0, 300)
			r.Settled()
			check.OK(t, c.DeleteTopic("t"))
			r.Publish(300, 900)
			r.Await(func() bool { r.Balanced(); return parked(r) == "t" && r.Ledger("kafka").Pending == 900 })
			check.OK(t, c.CreateTopic("t", partitions, nil))
			r.Publish(1200, 300)
			r.Settled()
			inOrderByKey(t, fakekafka.ReadDifferent(t, c, "t", 1200))
			inOrderByKey(t, fakekafka.ReadDifferent(t, c, "other", 500))
			if l := r.Ledger("kafka"); l.Delivered != 1500 {
				t.Fatalf("ledger %+v", l)
			}
			r.Await(func() bool { return parked(r) == "" })
			r.Stop()
		})
	}
}

// A topic may be recreated so quickly that it is never seen missing.
func TestTopicRecreatedAtOnceAcceptsMessages(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	r := newRigWith(t, c, 64, parkedRules, nil)
	for _, partitions := range []int32{1, 4, 2} {
		r.Publish(0, 300)
		check.OK(t, c.DeleteTopic("t"))
		check.OK(t, c.CreateTopic("t", partitions, nil))
	}
	check.OK(t, c.CreateTopic("other", 2, nil))
	r.Publish(300, 300)
	r.Settled()
	if l := r.Ledger("kafka"); l.Delivered != 1200 {
		t.Fatalf("ledger %+v", l)
	}
	for _, rec := range fakekafka.ReadDifferent(t, c, "t", 300) {
		if rec.Partition > 1 {
			t.Fatalf("partition %d", rec.Partition)
		}
	}
	r.Stop()
}

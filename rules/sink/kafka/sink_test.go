package kafka_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/message"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafka"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/parts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testRules = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to:
      - kafka: {topic: t}
  - id: centre
    from: ["v1/+/up/telemetry"]
    when: payload.h == 1
    transform: {n: payload.n, vin: vin}
    to:
      - central: {lane: p1, topic: fleet.t}
`

func cluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	return fakekafka.Cluster(t, append(opts, kfake.SeedTopics(3, "t"))...)
}

func newRig(t *testing.T, c *kfake.Cluster, limit int) *sinktest.Rig {
	t.Helper()
	return newRigWith(t, c, limit, testRules, &kafkaclient.TopicSpec{Partitions: 2, Replication: 1})
}

// newRigWith returns a rig that creates missing topics with create, unless it is nil.
func newRigWith(t *testing.T, c *kfake.Cluster, limit int, text string, create *kafkaclient.TopicSpec) *sinktest.Rig {
	t.Helper()
	return sinktest.New(t, sinktest.Setup{Rules: text, Sinks: func() []sink.Binding {
		var out []sink.Binding
		for _, outbox := range []bool{false, true} {
			o := parts.Producer(c.ListenAddrs())
			o.AutoCreate, o.BatchRecords, o.RequestTimeout, o.PingInterval = create, 64, time.Second, 20*time.Millisecond
			p, err := kafkaclient.NewProducer(o)
			check.OK(t, err)
			out = append(out, sink.Binding{
				Sink:   kafka.New(kafka.Options{Producer: p, Cell: "cell-1", Outbox: outbox}),
				Limits: sink.Limits{Messages: limit},
			})
		}
		return out
	}})
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func TestRecordsAreAsTheContractSays(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	r := newRig(t, c, 0)
	rec := sinktest.Telemetry(1)
	rec.Props.ContentType, rec.Epoch = "application/json", 1_700_000_000_000
	rec.Props.User = []message.UserProperty{{Name: "cell", Value: "forged"}, {Name: "trace", Value: "x"}}
	r.Append(rec)
	r.Settled()
	got := fakekafka.ReadDifferent(t, c, "t", 1)[0]
	want := map[string]string{
		"cell": "cell-1", "vin": sinktest.VIN(1), "topic": rec.Topic, "rule": "all", "target": "0",
		"content-type": "application/json", "epoch": "1700000000000", "mqtt-cell": "forged", "mqtt-trace": "x",
		"msg-id":      message.ID("gw-1", r.Journal.Epoch(), r.Journal.Last()),
		"received-at": got.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z07:00"),
	}
	if len(got.Headers) != len(want) {
		t.Errorf("headers %v", got.Headers)
	}
	for name, v := range want {
		if header(got, name) != v {
			t.Errorf("header %s is %q, want %q", name, header(got, name), v)
		}
	}
	if string(got.Key) != sinktest.VIN(1) || string(got.Value) != sinktest.Payload(1) {
		t.Errorf("key %s, value %s", got.Key, got.Value)
	}
	out := fakekafka.ReadDifferent(t, c, "central.p1", 1)[0]
	if header(out, "central-topic") != "fleet.t" || header(out, "rule") != "centre" || string(out.Key) != sinktest.VIN(1) ||
		string(out.Value) != `{"n":1,"vin":"`+sinktest.VIN(1)+`"}` {
		t.Errorf("outbox record: %v, %s", out.Headers, out.Value)
	}
	r.Stop()
}

// TestRecordsWithoutHeaders checks that `headers: none` leaves only the header for the way to the centre, and no
// property of the vehicle.
func TestRecordsWithoutHeaders(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	r := newRigWith(t, c, 0, `
rules:
  - id: anonymous
    from: ["v1/+/up/telemetry"]
    transform: {keep: payload, drop: [vin]}
    to:
      - kafka: {topic: t, key: payload.n, headers: none}
      - central: {lane: p1, topic: fleet.t, key: payload.n, headers: none, payload: none}
`, &kafkaclient.TopicSpec{Partitions: 2, Replication: 1})
	rec := sinktest.Telemetry(1)
	rec.Props.ContentType = "application/json"
	rec.Props.User = []message.UserProperty{{Name: "owner", Value: "Li"}}
	r.Append(rec)
	r.Settled()
	got := fakekafka.ReadDifferent(t, c, "t", 1)[0]
	if len(got.Headers) != 0 || string(got.Key) != "1" {
		t.Errorf("headers %v, key %s, value %s", got.Headers, got.Key, got.Value)
	}
	out := fakekafka.ReadDifferent(t, c, "central.p1", 1)[0]
	if len(out.Headers) != 1 || header(out, "central-topic") != "fleet.t" || len(out.Value) != 0 {
		t.Errorf("outbox record: %v, %s", out.Headers, out.Value)
	}
	r.Stop()
}

func TestOutageIsBoundedAndLosesNothing(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	away := fakekafka.Away(c)
	r := newRig(t, c, 100)
	r.Publish(0, 200)
	r.Settled()
	away.Store(true)
	r.Publish(200, 3000)
	r.Await(func() bool { l := r.Ledger("kafka"); return l.Received == 3200 && l.Pending >= 2900 })
	r.Await(func() bool {
		for _, h := range r.Dispatcher.Health() {
			if h.Name == "kafka" {
				return !h.OK && h.Reason != ""
			}
		}
		return false
	})
	r.Balanced()
	away.Store(false)
	r.Settled()
	inOrder(t, fakekafka.ReadDifferent(t, c, "t", 3200))
	r.Stop()
}

// inOrder checks that the first appearances of each key's message ids are in journal order.
func inOrder(t *testing.T, recs []*kgo.Record) {
	t.Helper()
	var all []sinktest.Message
	for _, r := range recs {
		id := header(r, "msg-id")
		var seq uint64
		for i := len(id) - 1; i >= 0 && id[i] != '-'; i-- {
			if i == 0 || id[i-1] == '-' {
				for _, d := range id[i:] {
					seq = seq*10 + uint64(d-'0') //nolint:gosec // a digit
				}
			}
		}
		all = append(all, sinktest.Message{Seq: seq, ID: id, VIN: string(r.Key), Rule: header(r, "rule"), Value: string(r.Value)})
	}
	sinktest.InOrder(t, all)
}

func TestCrashInTheMiddleOfDelivery(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	r := newRig(t, c, 0)
	n := 0
	for range 6 {
		r.Publish(n, 700)
		n += 700
		r.Kill()
		r.Open()
	}
	r.Settled()
	inOrder(t, fakekafka.ReadDifferent(t, c, "t", n))
	if l := r.Ledger("kafka"); l.Delivered != uint64(n) { //nolint:gosec // small
		t.Fatalf("ledger %+v after %d messages", l, n)
	}
	r.Stop()
}

func TestTooLargeGoesToTheErrorTopic(t *testing.T) {
	t.Parallel()
	// The topic takes only small records, the error topic everything that the broker takes.
	c := cluster(t)
	check.OK(t, c.CreateTopic("small", 1, map[string]string{"max.message.bytes": "500"}))
	r := newRig(t, c, 0)
	r.Apply(`
rules:
  - id: small
    from: ["v1/+/up/telemetry"]
    to:
      - kafka: {topic: small}
`)
	big := sinktest.Telemetry(0)
	big.Payload = make([]byte, 4000)
	for i := range big.Payload {
		big.Payload[i] = byte(i * i >> 3) //nolint:gosec // compresses badly
	}
	r.Append(big)
	r.Publish(1, 3)
	r.Settled()
	if l := r.Ledger("kafka"); l.DeadLettered != 1 || l.Delivered != 3 {
		t.Fatalf("ledger %+v", l)
	}
	dead := fakekafka.ReadDifferent(t, c, rulestest.ErrorTopic, 1)[0]
	if header(dead, "rule") != "small" || header(dead, "target") != "0" || header(dead, "error") == "" || len(dead.Value) != 4000 {
		t.Fatalf("dead letter %v", dead.Headers)
	}
	r.Stop()
}

func TestRefusingErrorTopicKeepsTheMessage(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: -1})
	defer h.Remove()
	r := newRig(t, c, 0)
	r.Publish(0, 5)
	r.Await(func() bool { return h.Hits() >= 10 })
	if l := r.Ledger("kafka"); l.Pending != 5 || !l.Balanced {
		t.Fatalf("ledger %+v", l)
	}
}

package syncer

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/parts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a cell's Kafka and a central one.
type pair struct {
	t             testing.TB
	cell, central *kfake.Cluster
}

func newPair(t testing.TB) *pair {
	t.Helper()
	return &pair{
		t:       t,
		cell:    fakekafka.Cluster(t, kfake.SeedTopics(2, kafkaclient.OutboxTopics()...)),
		central: fakekafka.Cluster(t),
	}
}

// quick returns producer settings with short timeouts.
func quick(c *kfake.Cluster) kafkaclient.ProducerOptions {
	o := parts.Producer(c.ListenAddrs())
	o.AutoCreate = &kafkaclient.TopicSpec{Partitions: 3, Replication: 1}
	o.PartitionWatchInterval = 100 * time.Millisecond
	return o
}

// start starts a syncer, which the test's cleanup stops if necessary.
func (p *pair) start(change ...func(*Options)) *Syncer {
	p.t.Helper()
	o := p.options()
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	check.OK(p.t, err)
	s.Start()
	p.t.Cleanup(func() { p.cut(s) })
	return s
}

// dividing starts a syncer that owns some partitions.
func (p *pair) dividing(mine func(topic string, id int) bool) *Syncer {
	p.t.Helper()
	return p.start(func(o *Options) { o.Mine = mine })
}

func (p *pair) options() Options {
	return Options{
		CellID: "cell-1", Centre: defaultCentre, Limits: unlimited, Memory: 32 << 20, Cell: quick(p.cell), Central: quick(p.central), Group: "cellgate-sync", Owner: rand.Text(), CommitInterval: 20 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil, false),
	}
}

func unlimited(time.Time) kafkaclient.FlowLimits { return kafkaclient.FlowLimits{Share: 0.1} }

// limited returns a common limit of all lanes.
func limited(rate int64) func(time.Time) kafkaclient.FlowLimits {
	return func(time.Time) kafkaclient.FlowLimits { return kafkaclient.FlowLimits{Rate: rate, Share: 0.1} }
}

// stop stops a worker with enough time to commit, also on a busy machine.
func (p *pair) stop(s *Syncer) {
	ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
	defer cancel()
	_ = s.Stop(ctx)
}

// cut stops a worker that may have records in flight to an unreachable centre.
func (p *pair) cut(s *Syncer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Stop(ctx)
}

// put writes n records of a few keys into an outbox topic, the value counting within the key from first.
func (p *pair) put(topic string, first, n int) {
	p.t.Helper()
	cl := fakekafka.Client(p.t, p.cell)
	var recs []*kgo.Record
	for i := range n {
		recs = append(recs, &kgo.Record{
			Topic: topic, Key: []byte(fmt.Sprintf("vin-%d", i%5)), Value: []byte(strconv.Itoa(first + i/5)),
			Timestamp: time.UnixMilli(1_700_000_000_000),
			Headers:   []kgo.RecordHeader{{Key: "central-topic", Value: []byte("fleet." + topic)}, {Key: "rule", Value: []byte("r")}},
		})
	}
	check.OK(p.t, cl.ProduceSync(context.Background(), recs...).FirstErr())
}

// The time to the centre counts from when a gateway received the message, per lane.
func TestTimeFromTheVehicleToTheCentre(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	cl := fakekafka.Client(t, p.cell)
	record := func(topic string, headers ...kgo.RecordHeader) *kgo.Record {
		return &kgo.Record{
			Topic: topic, Key: []byte(topic), Value: []byte("0"), Timestamp: time.Now().Add(-time.Hour),
			Headers: append(headers, kgo.RecordHeader{Key: "central-topic", Value: []byte("fleet")}),
		}
	}
	received := kgo.RecordHeader{Key: "received-at", Value: []byte(time.Now().Add(-90 * time.Minute).Format(time.RFC3339))}
	check.OK(t, cl.ProduceSync(t.Context(), record("central.p0", received), record("central.p1")).FirstErr())
	reg := prometheus.NewRegistry()
	p.start(func(o *Options) { o.Metrics = NewMetrics(reg, false) })
	got(t, p.central, "fleet", 2)
	minutes := map[string]int{}
	await(t, func() bool {
		families, err := reg.Gather()
		check.OK(t, err)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "sync_delivery_seconds" && m.GetHistogram().GetSampleCount() == 1 {
					minutes[m.GetLabel()[0].GetValue()] = int(m.GetHistogram().GetSampleSum() / 60)
				}
			}
		}
		return len(minutes) == 2
	})
	// Less than the half hour by which header and timestamp differ.
	if minutes["p0"] < 90 || minutes["p0"] >= 110 || minutes["p1"] < 60 || minutes["p1"] >= 80 {
		t.Errorf("minutes by lane: %v, want about p0 90 and p1 60", minutes)
	}
}

// startsClean starts after a stop that committed everything, with n more records, from first on in each key: the centre
// then has want records, none twice.
func (p *pair) startsClean(topic string, first, n, want int) {
	p.t.Helper()
	p.put(topic, first, n)
	p.start()
	if have := len(got(p.t, p.central, "fleet."+topic, want)); have != want {
		p.t.Errorf("%d records of %d after a clean restart", have, want)
	}
}

// got reads a topic until n different records have come, and checks each key's order.
func got(t testing.TB, c *kfake.Cluster, topic string, n int) []*kgo.Record {
	t.Helper()
	recs := fakekafka.ReadDifferent(t, c, topic, n)
	seen, next := map[string]bool{}, map[string]int{}
	for _, r := range recs {
		key := string(r.Key)
		if id := key + "/" + string(r.Value); !seen[id] {
			seen[id] = true
			if v, _ := strconv.Atoi(string(r.Value)); v != next[key] {
				t.Errorf("%s: %d, expected %d", key, v, next[key])
			}
			next[key]++
		}
	}
	return recs
}

func TestForwardsWithKeyValueAndHeaders(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	s := p.start()
	for _, topic := range kafkaclient.OutboxTopics() {
		p.put(topic, 0, 200)
	}
	for _, topic := range kafkaclient.OutboxTopics() {
		recs := got(t, p.central, "fleet."+topic, 200)
		if len(recs) != 200 {
			t.Fatalf("%d records", len(recs))
		}
		for _, r := range recs {
			h := map[string]string{}
			for _, x := range r.Headers {
				h[x.Key] = string(x.Value)
			}
			if h["src-cell"] != "cell-1" || h["src-topic"] != topic || h["src-partition"] == "" || h["src-offset"] == "" ||
				h["rule"] != "r" || r.Timestamp.UnixMilli() != 1_700_000_000_000 {
				t.Fatalf("headers %v, time %v", h, r.Timestamp)
			}
			if int(r.Partition) != kafkaclient.Partition(r.Key, 3) {
				t.Fatalf("%s in partition %d", r.Key, r.Partition)
			}
		}
	}
	await(t, func() bool { return s.lagging() == 0 })
}

func TestResumesWhereItWas(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	s := p.start()
	p.put("central.p1", 0, 100)
	got(t, p.central, "fleet.central.p1", 100)
	p.stop(s)
	p.startsClean("central.p1", 20, 100, 200)
}

// A starting worker takes over at once. Its predecessor, taken for dead, forwards nothing more, reports that, and does
// not reset the group's offsets.
func TestTheLaterWorkerTakesOver(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	a := p.start()
	p.put("central.p0", 0, 500)
	got(t, p.central, "fleet.central.p0", 500)
	await(t, func() bool { return a.committed() == 500 })
	b := p.start()
	await(t, func() bool { return strings.Contains(a.degraded("sync"), b.o.Owner) && a.has() == 0 })
	before := fakekafka.Count(t, p.central, "fleet.central.p0")
	p.put("central.p0", 100, 500)
	await(t, func() bool { return b.lagging() == 0 && b.committed() == 1000 })
	if n := fakekafka.Count(t, p.central, "fleet.central.p0"); before != 500 || n != 1000 {
		t.Errorf("%d records at the centre, then %d", before, n)
	}
	p.stop(a)
	p.stop(b)
	p.startsClean("central.p0", 200, 50, 1050)
}

// A killed worker is replaced at once: no session has to expire.
func TestNobodyWaitsForAKilledWorker(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	killed := p.start(func(o *Options) { o.CommitInterval = time.Hour })
	p.put("central.p1", 0, 100)
	got(t, p.central, "fleet.central.p1", 100)
	var groups atomic.Int64
	for _, k := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat, kmsg.LeaveGroup} {
		p.cell.ControlKey(k.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			p.cell.KeepControl()
			groups.Add(1)
			return nil, nil, false
		})
	}
	next := p.start() // while the broker still sees the other one
	p.put("central.p1", 20, 100)
	got(t, p.central, "fleet.central.p1", 200)
	await(t, func() bool { return killed.degraded("sync") != "" && next.lagging() == 0 })
	if n := groups.Load(); n > 0 {
		t.Errorf("%d requests of a member of a group", n)
	}
}

func TestEitherKafkaMayBeAway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	cellAway, centralAway := fakekafka.Away(p.cell), fakekafka.Away(p.central)
	p.put("central.p2", 0, 50)
	cellAway.Store(true)
	centralAway.Store(true)
	s := p.start()
	await(t, func() bool { h := s.Health(); return !h[0].OK && !h[1].OK })
	cellAway.Store(false)
	await(t, func() bool { l := s.Lanes()[2]; return l.Known && l.Messages == 50 })
	centralAway.Store(false)
	got(t, p.central, "fleet.central.p2", 50)
	await(t, func() bool { h := s.Health(); return h[0].OK && h[1].OK })
	cellAway.Store(true)
	await(t, func() bool { return !s.Health()[0].OK })
	cellAway.Store(false)
	p.put("central.p2", 10, 50)
	got(t, p.central, "fleet.central.p2", 100)
}

func TestFaultsOfTheCentreRepeatNothingAndKeepOrder(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		t.Run(e.Message, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			h := p.central.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: e, Count: 5})
			defer h.Remove()
			p.start()
			p.put("central.p0", 0, 300)
			if n := len(got(t, p.central, "fleet.central.p0", 300)); n != 300 {
				t.Fatalf("%d records", n)
			}
		})
	}
}

func TestWhatTheCentreRefusesGoesToTheErrorTopic(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start()
	cl := fakekafka.Client(t, p.cell)
	bad := []*kgo.Record{
		{Topic: "central.p0", Key: []byte("a"), Value: []byte("0")}, // without a central topic
		{Topic: "central.p0", Key: []byte("b"), Value: []byte("0"), Headers: []kgo.RecordHeader{{Key: "central-topic", Value: []byte("not/a/topic")}}},
	}
	h := p.central.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "not/a/topic", Err: kerr.InvalidTopicException, Count: -1})
	defer h.Remove()
	check.OK(t, cl.ProduceSync(context.Background(), bad...).FirstErr())
	for _, r := range got(t, p.cell, ErrorTopic, 2) {
		if last := r.Headers[len(r.Headers)-1]; last.Key != "error" || len(last.Value) == 0 {
			t.Fatalf("headers %v", r.Headers)
		}
	}
	p.put("central.p0", 0, 50)
	got(t, p.central, "fleet.central.p0", 50)
}

func await(t testing.TB, ok func() bool) {
	t.Helper()
	check.Eventually(t, "the condition", ok)
}

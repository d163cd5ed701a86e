package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/options"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testOptions are a gateway's options with short timeouts.
func testOptions(brokers ...string) ProducerOptions {
	k := configs.Default().Kafka
	o := ProducerOptions{
		Config: Config{Brokers: brokers, ClientID: k.ClientID, RequestTimeout: 2 * time.Second, Timing: NormalTiming()},
		Name:   "test", Linger: time.Millisecond, BatchRecords: configs.KafkaBatchRecords,
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
	}
	o.MetadataTTL, o.BackoffMin, o.BackoffMax = 100*time.Millisecond, 5*time.Millisecond, 50*time.Millisecond
	options.Fill(&o, k)
	return o
}

// consumerOptions are a gateway's options for the group g.
func consumerOptions(brokers []string, topics ...string) ConsumerOptions {
	o := testOptions(brokers...)
	o.Timing = NormalTiming()
	o.PartitionWatchInterval = 100 * time.Millisecond
	return ConsumerOptions{Config: o.Config, Name: "test", Group: "g", Owner: "me", Topics: topics, Log: o.Log, Metrics: o.Metrics}
}

func producer(t *testing.T, c *kfake.Cluster, change ...func(*ProducerOptions)) *Producer {
	t.Helper()
	o := testOptions(c.ListenAddrs()...)
	o.InFlight = 5
	for _, f := range change {
		f(&o)
	}
	p, err := NewProducer(o)
	check.OK(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// collector gathers outcomes in order.
type collector struct {
	mu   sync.Mutex
	errs []error
	wg   sync.WaitGroup
}

func (c *collector) Produced(_ *Record, err error) {
	c.mu.Lock()
	c.errs = append(c.errs, err)
	c.mu.Unlock()
	c.wg.Done()
}

func (c *collector) wait(t *testing.T) []error {
	t.Helper()
	done := make(chan struct{})
	go func() { c.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(check.Patience):
		t.Fatal("records have no outcome after 30 s")
	}
	return c.errs
}

// send produces n records round-robin over keys; the value is the number within the key.
func send(p *Producer, c *collector, topic string, keys, n int) {
	for i := range n {
		sendOne(p, c, topic, keys, i)
	}
}

func sendOne(p *Producer, c *collector, topic string, keys, i int) {
	c.wg.Add(1)
	r := &Record{
		Topic: topic, Key: []byte(fmt.Sprintf("key-%d", i%keys)), Value: []byte(strconv.Itoa(i / keys)),
		Time: 1_700_000_000_000 + int64(i), Done: c,
	}
	r.Headers = AppendHeader(r.Headers, "n", strconv.Itoa(i))
	r.HeaderCount = 1
	p.Produce(r)
}

// inOrder checks that every key counts 0, 1, 2 … without a gap, a repetition or a step back.
func inOrder(t *testing.T, recs []*kgo.Record, keys, n int) {
	t.Helper()
	next := make(map[string]int)
	for _, r := range recs {
		k := string(r.Key)
		if v, _ := strconv.Atoi(string(r.Value)); v != next[k] {
			t.Fatalf("%s: %d after %d (offset %d of partition %d)", k, v, next[k]-1, r.Offset, r.Partition)
		}
		next[k]++
	}
	total := 0
	for _, v := range next {
		total += v
	}
	if len(next) != keys || total != n {
		t.Fatalf("%d records of %d keys, want %d of %d", total, len(next), n, keys)
	}
}

func allWritten(t *testing.T, errs []error, n int) {
	t.Helper()
	if len(errs) != n {
		t.Fatalf("%d outcomes, want %d", len(errs), n)
	}
	for _, err := range errs {
		check.OK(t, err)
	}
}

func TestProducerWritesWhatForeignClientsRead(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"zstd", "none", "gzip", "lz4", "snappy"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			c := fakekafka.Cluster(t, kfake.SeedTopics(3, "a"))
			p := producer(t, c, func(o *ProducerOptions) { o.Compression = compression })
			out := &collector{}
			send(p, out, "a", 7, 1000)
			allWritten(t, out.wait(t), 1000)
			recs := fakekafka.Read(t, c, "a", 1000)
			inOrder(t, recs, 7, 1000)
			for _, r := range recs {
				i, _ := strconv.Atoi(string(r.Headers[0].Value))
				if r.Headers[0].Key != "n" || r.Timestamp.UnixMilli() != 1_700_000_000_000+int64(i) {
					t.Fatalf("record %d: headers %v, time %v", i, r.Headers, r.Timestamp)
				}
				if int(r.Partition) != Partition(r.Key, 3) {
					t.Fatalf("%s is in partition %d", r.Key, r.Partition)
				}
			}
		})
	}
}

func TestProducerSurvivesFaults(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.RequestTimedOut, kerr.NotEnoughReplicas,
		kerr.NotEnoughReplicasAfterAppend, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID,
		kerr.InvalidProducerEpoch, kerr.KafkaStorageError, kerr.CorruptMessage, kerr.UnknownServerError,
		kerr.TopicAuthorizationFailed, kerr.ThrottlingQuotaExceeded,
	} {
		t.Run(e.Message, func(t *testing.T) {
			t.Parallel()
			c := fakekafka.Cluster(t, kfake.SeedTopics(2, "a"))
			p := producer(t, c, func(o *ProducerOptions) { o.BatchRecords = 16 })
			// Every third request fails, twice.
			seen := 0
			h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: e, Count: 6, When: func(kmsg.Request) bool {
				seen++
				return seen%3 != 0
			}})
			defer h.Remove()
			out := &collector{}
			send(p, out, "a", 5, 500)
			allWritten(t, out.wait(t), 500)
			inOrder(t, fakekafka.Read(t, c, "a", 500), 5, 500)
			if h.Hits() == 0 {
				t.Fatal("the fault was never met")
			}
		})
	}
}

func TestProducerSurvivesCutConnections(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.BatchRecords = 10; o.RequestTimeout = 300 * time.Millisecond })
	// Every fourth connection ends in the middle of a request, unanswered.
	var mu sync.Mutex
	n := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		if n++; n%4 == 1 {
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	out := &collector{}
	send(p, out, "a", 5, 400)
	allWritten(t, out.wait(t), 400)
	inOrder(t, fakekafka.Read(t, c, "a", 400), 5, 400)
}

func TestProducerRefusesOnlyWhatKafkaRefuses(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "20000"}), kfake.SeedTopics(1, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.Compression = "none" })
	out := &collector{}
	send(p, out, "a", 1, 50)
	big := &collector{}
	big.wg.Add(1)
	p.Produce(&Record{Topic: "a", Key: []byte("key-0"), Value: make([]byte, 100_000), Done: big})
	for i := range 50 {
		out.wg.Add(1)
		p.Produce(&Record{Topic: "a", Key: []byte("key-0"), Value: []byte(strconv.Itoa(50 + i)), Done: out})
	}
	if err := big.wait(t)[0]; !errors.Is(err, ErrRefused) {
		t.Fatalf("the large record: %v", err)
	}
	allWritten(t, out.wait(t), 100)
	inOrder(t, fakekafka.Read(t, c, "a", 100), 1, 100)
}

func TestProducerCreatesTopics(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t)
	p := producer(t, c, func(o *ProducerOptions) { o.AutoCreate = &TopicSpec{Partitions: 4, Replication: 1} })
	out := &collector{}
	send(p, out, "new", 9, 100)
	allWritten(t, out.wait(t), 100)
	inOrder(t, fakekafka.Read(t, c, "new", 100), 9, 100)
	if n := len(c.PartitionInfos("new")); n != 4 {
		t.Fatalf("%d partitions", n)
	}
}

func TestProducerFailsMissingTopic(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.MissingTopicGrace = 50 * time.Millisecond })
	lost, kept := &collector{}, &collector{}
	send(p, lost, "nowhere", 1, 3)
	send(p, kept, "a", 1, 3)
	for _, err := range lost.wait(t) {
		if !errors.Is(err, ErrRefused) || !errors.Is(err, ErrMissingTopic) {
			t.Fatalf("outcome %v", err)
		}
	}
	allWritten(t, kept.wait(t), 3)
	if h := p.Health(); h.OK || h.Reason == "" {
		t.Fatalf("health %+v, want the missing topic", h)
	}
}

func TestProducerKeepsKeysInOrderWhilePartitionsAreAdded(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c)
	out := &collector{}
	send(p, out, "a", 8, 80)
	allWritten(t, out.wait(t), 80)
	req := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = "a", 5
	req.Topics = append(req.Topics, rt)
	cl := fakekafka.Client(t, c)
	_, err := req.RequestWith(context.Background(), cl)
	check.OK(t, err)
	check.Eventually(t, "five partitions", func() bool {
		tp := p.topic("a")
		tp.mu.Lock()
		defer tp.mu.Unlock()
		return len(tp.partitions) == 5
	})
	more := &collector{}
	send(p, more, "a", 8, 80)
	allWritten(t, more.wait(t), 80)
	for _, r := range fakekafka.Read(t, c, "a", 160) {
		if r.Timestamp.UnixMilli() < 1_700_000_000_000 {
			t.Fatal("time")
		}
	}
}

// TestProducerFindsARecreatedTopic recreates a topic at once with other partitions. The old one's records are
// lost with it; from the first record in the new one on, each key has all its records, in order.
func TestProducerFindsARecreatedTopic(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int32{2, 4, 9} {
		t.Run(fmt.Sprint("4, then ", partitions), func(t *testing.T) {
			t.Parallel()
			const keys, records = 8, 800
			c := fakekafka.Cluster(t, kfake.NumBrokers(3), kfake.SeedTopics(4, "a"))
			p := producer(t, c, func(o *ProducerOptions) { o.BatchRecords = 8 })
			admin := kadm.NewClient(fakekafka.Client(t, c))
			out := &collector{}
			send(p, out, "a", keys, records/2)
			_, err := admin.DeleteTopic(t.Context(), "a")
			check.OK(t, err)
			_, err = admin.CreateTopic(t.Context(), partitions, 1, nil, "a")
			check.OK(t, err)
			for i := records / 2; i < records; i++ {
				sendOne(p, out, "a", keys, i)
				if i%50 == 0 {
					time.Sleep(10 * time.Millisecond) // records arrive while the new topic is detected
				}
			}
			allWritten(t, out.wait(t), records)
			inOrderFromTheFirst(t, fakekafka.Read(t, c, "a", int(fakekafka.Count(t, c, "a"))), keys, records)
		})
	}
}

// inOrderFromTheFirst checks that each key has all its records from its first one on, which is in the first half, and in
// order in each partition.
func inOrderFromTheFirst(t *testing.T, all []*kgo.Record, keys, records int) {
	t.Helper()
	first, next := map[string]int{}, map[string]map[int32]int{}
	seen := map[string]map[int]bool{}
	for _, r := range all {
		k := string(r.Key)
		n, err := strconv.Atoi(string(r.Value))
		check.OK(t, err)
		if next[k] == nil {
			first[k], next[k], seen[k] = n, map[int32]int{}, map[int]bool{}
		}
		if n < next[k][r.Partition] || seen[k][n] {
			t.Errorf("%s: %d after %d in partition %d", k, n, next[k][r.Partition]-1, r.Partition)
		}
		first[k], next[k][r.Partition], seen[k][n] = min(first[k], n), n+1, true
	}
	for k, all := range seen {
		if want := records/keys - first[k]; len(all) != want || first[k] > records/keys/2 {
			t.Errorf("%s: %d records from %d on, want %d", k, len(all), first[k], want)
		}
	}
	if len(seen) != keys {
		t.Errorf("%d keys", len(seen))
	}
}

func TestProducerWaitsForUnavailableCluster(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	away := fakekafka.Away(c)
	away.Store(true)
	p := producer(t, c, func(o *ProducerOptions) { o.PingInterval = 20 * time.Millisecond })
	out := &collector{}
	send(p, out, "a", 2, 10)
	check.Eventually(t, "the outage is told", func() bool { return !p.Health().OK })
	away.Store(false)
	allWritten(t, out.wait(t), 10)
	inOrder(t, fakekafka.Read(t, c, "a", 10), 2, 10)
	check.Eventually(t, "its end is told", func() bool { return p.Health().OK })
}

func TestProducerFollowsTheLeader(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.NumBrokers(3), kfake.SeedTopics(2, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.BatchRecords = 8 })
	out := &collector{}
	for round := range 6 {
		send(p, out, "a", 1, 20)
		if err := c.MoveTopicPartition("a", int32(round%2), int32(round%3)); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
		out.wait(t)
	}
	allWritten(t, out.wait(t), 120)
	if n := len(fakekafka.Read(t, c, "a", 120)); n != 120 {
		t.Fatalf("%d records, want 120 and no repetition", n)
	}
}

func TestProducerCloseReportsUnknownOutcomes(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c)
	out := &collector{}
	send(p, out, "a", 1, 5)
	out.wait(t)
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: -1})
	defer h.Remove()
	stuck := &collector{}
	send(p, stuck, "a", 1, 5)
	check.Eventually(t, "a request is made", func() bool { return h.Hits() > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("close: %v", err)
	}
	for _, err := range stuck.wait(t) {
		if !errors.Is(err, errClosed) {
			t.Fatalf("outcome %v", err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*ProducerOptions){
		"no brokers":  func(o *ProducerOptions) { o.Brokers = nil },
		"incomplete":  func(o *ProducerOptions) { o.PingInterval = 0 },
		"mechanism":   func(o *ProducerOptions) { o.SASL = &SASL{Mechanism: "gssapi"} },
		"compression": func(o *ProducerOptions) { o.Compression = "brotli" },
	} {
		o := testOptions("x:1")
		spoil(&o)
		if _, err := NewProducer(o); !errors.Is(err, errConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

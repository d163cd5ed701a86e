package kafkaclient

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// strict makes a cluster refuse what Apache Kafka refuses since 2.1 (KIP-110): zstd in Produce requests before version
// 7, and Fetch requests before version 10 for topics stored in zstd, which here are all. It counts them.
func strict(c *kfake.Cluster) *atomic.Int64 {
	refused := &atomic.Int64{}
	c.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		p := &req.Topics[0].Partitions[0]
		if req.Version >= 7 || p.Records[22]&7 != 4 {
			return nil, nil, false
		}
		refused.Add(1)
		res := req.ResponseKind().(*kmsg.ProduceResponse)
		res.Topics = []kmsg.ProduceResponseTopic{{Topic: req.Topics[0].Topic, Partitions: []kmsg.ProduceResponseTopicPartition{{
			Partition: p.Partition, ErrorCode: kerr.UnsupportedCompressionType.Code,
		}}}}
		return res, nil, true
	})
	c.ControlKey(kmsg.Fetch.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.FetchRequest)
		if req.Version >= 10 || len(req.Topics) == 0 {
			return nil, nil, false
		}
		refused.Add(1)
		res := req.ResponseKind().(*kmsg.FetchResponse)
		res.Topics = []kmsg.FetchResponseTopic{{Topic: req.Topics[0].Topic, Partitions: []kmsg.FetchResponseTopicPartition{{
			Partition: req.Topics[0].Partitions[0].Partition, ErrorCode: kerr.UnsupportedCompressionType.Code,
		}}}}
		return res, nil, true
	})
	return refused
}

// Pipelined batches are compressed with zstd, in a request version that Kafka accepts for it.
func TestZstdInFlight(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	refused := strict(c)
	var again atomic.Int64
	p := producer(t, c, func(o *ProducerOptions) {
		o.BatchRecords, o.Compression = 8, "zstd"
		o.Retried = func(string) { again.Add(1) }
	})
	out := &collector{}
	send(p, out, "a", 3, 400)
	allWritten(t, out.wait(t), 400)
	if refused.Load() > 0 || again.Load() > 0 {
		t.Errorf("%d requests refused, %d sent again", refused.Load(), again.Load())
	}
}

// Topics stored in zstd can be read.
func TestFetchesZstd(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	cl := fakekafka.Client(t, c, kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	check.OK(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: "a", Value: []byte("v")}).FirstErr())
	refused := strict(c)
	tail, err := NewTail(testOptions(c.ListenAddrs()...).Config, "a", testOptions("a:1").Log, NewMetrics(nil))
	check.OK(t, err)
	defer tail.Close()
	n := 0
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	check.OK(t, tail.Read(ctx, 0, 0, 1, func(*Fetched) { n++ }))
	if n != 1 || refused.Load() > 0 {
		t.Errorf("%d records, %d requests refused", n, refused.Load())
	}
}

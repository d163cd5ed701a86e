// Package fakekafka is the in-process Kafka of tests: clusters, what they hold, and their faults.
package fakekafka

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
)

// Cluster starts a cluster of one broker unless the options say otherwise.
func Cluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	check.OK(t, err)
	t.Cleanup(c.Close)
	return c
}

// Client makes a client of the cluster, which is closed with the test.
func Client(t testing.TB, c *kfake.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, opts...)...)
	check.OK(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// Read reads a topic from its beginning until n records have come.
func Read(t testing.TB, c *kfake.Cluster, topic string, n int) []*kgo.Record {
	t.Helper()
	return read(t, c, topic, n, func(r *kgo.Record) string { return fmt.Sprint(r.Partition, "/", r.Offset) })
}

// ReadDifferent reads until records with n different keys and values have come; it returns all of them, repetitions too.
func ReadDifferent(t testing.TB, c *kfake.Cluster, topic string, n int) []*kgo.Record {
	t.Helper()
	return read(t, c, topic, n, func(r *kgo.Record) string { return string(r.Key) + "/" + string(r.Value) })
}

func read(t testing.TB, c *kfake.Cluster, topic string, n int, id func(*kgo.Record) string) (recs []*kgo.Record) {
	t.Helper()
	cl := Client(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMinAge(20*time.Millisecond))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for seen := map[string]bool{}; len(seen) < n; {
		fetched := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("topic %s: %d of %d records", topic, len(seen), n)
		}
		fetched.EachRecord(func(r *kgo.Record) {
			recs = append(recs, r)
			seen[id(r)] = true
		})
	}
	return recs
}

// Count is how many records were ever written to a topic.
func Count(t testing.TB, c *kfake.Cluster, topic string) (n int64) {
	t.Helper()
	for _, end := range ends(t, c, topic) {
		n += end.Offset
	}
	return n
}

// Expire removes the records before an offset from every partition of a topic, as retention does. It returns how many are
// left.
func Expire(t testing.TB, c *kfake.Cluster, topic string, before int64) (left int) {
	t.Helper()
	o := kadm.Offsets{}
	for _, end := range ends(t, c, topic) {
		at := min(before, end.Offset)
		o.AddOffset(topic, end.Partition, at, -1)
		left += int(end.Offset - at)
	}
	cl := Client(t, c)
	defer cl.Close()
	res, err := kadm.NewClient(cl).DeleteRecords(t.Context(), o)
	if err == nil {
		err = res.Error()
	}
	check.OK(t, err)
	return left
}

func ends(t testing.TB, c *kfake.Cluster, topic string) (list []kadm.ListedOffset) {
	t.Helper()
	cl := Client(t, c)
	defer cl.Close()
	all, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), topic)
	check.OK(t, err)
	all.Each(func(o kadm.ListedOffset) { list = append(list, o) })
	return list
}

// Away has the cluster close the connection of every request of the kinds, all kinds if none, while it is set.
func Away(c *kfake.Cluster, kinds ...kmsg.Key) *atomic.Bool {
	var set atomic.Bool
	refuse := func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if set.Load() {
			return nil, errors.New("away"), true
		}
		return nil, nil, false
	}
	if len(kinds) == 0 {
		c.Control(refuse)
	}
	for _, k := range kinds {
		c.ControlKey(k.Int16(), refuse)
	}
	return &set
}

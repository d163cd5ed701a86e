package kafkaclient

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// far is a cluster that holds back its responses until released, as if it was far away.
type far struct {
	mu    sync.Mutex
	held  bool
	freed *sync.Cond
}

// farCluster creates one with a topic a of one partition.
func farCluster(t *testing.T) (*kfake.Cluster, *far) {
	t.Helper()
	f := &far{}
	f.freed = sync.NewCond(&f.mu)
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"), kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
		return &farListener{l, f}, err
	}))
	t.Cleanup(func() { f.hold(false) })
	return c, f
}

func (f *far) hold(is bool) {
	f.mu.Lock()
	f.held = is
	f.freed.Broadcast()
	f.mu.Unlock()
}

type farListener struct {
	net.Listener
	far *far
}

// Accept implements net.Listener.
func (l *farListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &farConn{Conn: conn, far: l.far}, nil
}

type farConn struct {
	net.Conn
	far *far
}

// Write implements net.Conn.
func (c *farConn) Write(b []byte) (int, error) {
	c.far.mu.Lock()
	for c.far.held {
		c.far.freed.Wait()
	}
	c.far.mu.Unlock()
	return c.Conn.Write(b)
}

// farProducer creates a producer whose connection for several batches is open: while far holds back responses, it also
// holds back those of a new connection's handshake.
func farProducer(t *testing.T, c *kfake.Cluster) *Producer {
	t.Helper()
	p := producer(t, c, func(o *ProducerOptions) { o.BatchRecords = 1; o.RequestTimeout = 30 * time.Second })
	for range 2 { // the first goes alone
		out := &collector{}
		send(p, out, "a", 1, 1)
		allWritten(t, out.wait(t), 1)
	}
	return p
}

// batchesOf counts the batches in the cluster's log: recognised duplicates are not in it.
func batchesOf(c *kfake.Cluster) int64 { return c.PartitionInfo("a", 0).HighWatermark }

// At most five batches are in flight to a partition before the first response. All are written once, in order.
func TestFiveBatchesAreInFlight(t *testing.T) {
	t.Parallel()
	c, far := farCluster(t)
	p := farProducer(t, c)
	far.hold(true)
	out := &collector{}
	send(p, out, "a", 1, 12)
	check.Eventually(t, "five batches", func() bool { return p.topic("a").partitions[0].window.len() == MaxInFlight })
	far.hold(false)
	allWritten(t, out.wait(t), 12)
	inOrder(t, fakekafka.Read(t, c, "a", 14)[2:], 1, 12)
	if n := batchesOf(c); n != 14 {
		t.Errorf("%d records, want 14", n)
	}
}

// Each batch in flight is written once and in order after a fault at the first, a middle or the last of them: a broker
// error, a lost response although the batch was written, a cut connection, a moved leader.
func TestAWindowSurvivesFaults(t *testing.T) {
	t.Parallel()
	for _, e := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut, kerr.KafkaStorageError, nil,
	} {
		name := "cut"
		if e != nil {
			name = e.Message
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
			p := producer(t, c, func(o *ProducerOptions) { o.BatchRecords, o.Linger = 3, 0 })
			var mu sync.Mutex
			n := 0
			c.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				mu.Lock()
				defer mu.Unlock()
				if n++; n%7 != 0 {
					return nil, nil, false
				}
				if e == nil {
					return nil, errors.New("cut"), true
				}
				req := r.(*kmsg.ProduceRequest)
				res := req.ResponseKind().(*kmsg.ProduceResponse)
				rt := kmsg.NewProduceResponseTopic()
				rt.Topic = req.Topics[0].Topic
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.ErrorCode = e.Code
				rt.Partitions = append(rt.Partitions, rp)
				res.Topics = append(res.Topics, rt)
				return res, nil, true
			})
			out := &collector{}
			send(p, out, "a", 1, 600)
			allWritten(t, out.wait(t), 600)
			inOrder(t, fakekafka.Read(t, c, "a", 600), 1, 600)
			if n := batchesOf(c); n != 600 {
				t.Errorf("%d records, want 600", n)
			}
		})
	}
}

// A refused record in the middle of the batches in flight takes no other record with it.
func TestAWindowLosesOnlyWhatIsRefused(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "20000"}), kfake.SeedTopics(1, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.Compression, o.BatchRecords, o.Linger = "none", 2, 0 })
	out, big := &collector{}, &collector{}
	send(p, out, "a", 1, 1)
	out.wait(t)
	for i := 1; i < 60; i++ {
		if i%10 == 5 {
			big.wg.Add(1)
			p.Produce(&Record{Topic: "a", Key: []byte("key-0"), Value: make([]byte, 100_000), Done: big})
		}
		out.wg.Add(1)
		value := []byte{byte('0' + i/10), byte('0' + i%10)}
		p.Produce(&Record{Topic: "a", Key: []byte("key-0"), Value: value, Done: out})
	}
	allWritten(t, out.wait(t), 60)
	for _, err := range big.wait(t) {
		if !errors.Is(err, ErrRefused) {
			t.Errorf("the large record: %v", err)
		}
	}
	inOrder(t, fakekafka.Read(t, c, "a", 60), 1, 60)
}

// When the producer closes, everything in flight is reported, and nothing is left.
func TestAWindowEndsWithItsProducer(t *testing.T) {
	t.Parallel()
	c, far := farCluster(t)
	p := farProducer(t, c)
	far.hold(true)
	out := &collector{}
	send(p, out, "a", 1, 8)
	check.Eventually(t, "five batches", func() bool { return p.topic("a").partitions[0].window.len() == MaxInFlight })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	for _, err := range out.wait(t) {
		if !errors.Is(err, errClosed) {
			t.Errorf("outcome %v", err)
		}
	}
}

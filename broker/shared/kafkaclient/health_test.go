package kafkaclient

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// A partition whose batch was retried and then refused reports no failure, whether or not more is sent to it.
func TestRefusedBatchLeavesTheClusterWell(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c)
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.CorruptMessage, Count: -1})
	defer h.Remove()
	out := &collector{}
	send(p, out, "a", 1, 1)
	if errs := out.wait(t); !errors.Is(errs[0], ErrRefused) {
		t.Fatalf("outcome %v", errs[0])
	}
	check.Eventually(t, "health", func() bool { return p.Health().OK })
}

// givenUp is a Completion and a Parker that is abandoned on demand.
type givenUp struct {
	now     atomic.Bool
	outcome chan error
}

func (g *givenUp) Produced(_ *Record, err error) { g.outcome <- err }
func (g *givenUp) Abandoned() bool               { return g.now.Load() }
func (g *givenUp) Patient() bool                 { return false }
func (g *givenUp) Park(string, error) bool       { return false }

// The same holds for an abandoned batch, once the cluster answers again.
func TestAbandonedBatchLeavesTheClusterWell(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.PingInterval = 20 * time.Millisecond })
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	g := &givenUp{outcome: make(chan error, 1)}
	p.Produce(&Record{Topic: "a", Key: []byte("k"), Value: []byte("v"), Done: g, Parker: g})
	check.Eventually(t, "the failure is told", func() bool { return !p.Health().OK })
	g.now.Store(true)
	if err := <-g.outcome; !errors.Is(err, ErrAbandoned) {
		t.Fatalf("outcome %v", err)
	}
	h.Remove()
	check.Eventually(t, "health", func() bool { return p.Health().OK })
}

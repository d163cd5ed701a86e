package kafka_test

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// TestFaultsInARow exposes a cluster of three brokers to random faults while messages flow, and occasionally kills the
// dispatcher. No message may be lost or reordered; the ledger must balance at all times.
func TestFaultsInARow(t *testing.T) {
	t.Parallel()
	faults := 40
	if testing.Short() {
		faults = 12
	}
	rnd := rand.New(rand.NewPCG(11, 5)) //nolint:gosec // a test's choices
	c := cluster(t, kfake.NumBrokers(3))
	var cuts atomic.Int64 // number of requests that still lose their connection
	c.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if cuts.Add(-1) >= 0 {
			return nil, errors.New("cut"), true
		}
		return nil, nil, false
	})
	r := newRig(t, c, 128)
	n := 0
	for i := range faults {
		before := n
		switch i % 4 {
		case 0:
			h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: errorsOfProduce(rnd), Count: 1 + rnd.IntN(4)})
			defer h.Remove()
		case 1:
			p, node := rnd.Int32N(3), rnd.Int32N(3)
			check.OK(t, c.MoveTopicPartition("t", p, node))
		case 2:
			cuts.Store(1 + rnd.Int64N(8))
		case 3:
			if rnd.IntN(2) == 0 {
				r.Kill()
				r.Open()
			}
		}
		n += 50 + rnd.IntN(200)
		r.Publish(before, n-before)
		r.Balanced()
	}
	cuts.Store(0)
	r.Settled()
	if l := r.Ledger("kafka"); l.DeadLettered != 0 || l.Delivered != uint64(n) { //nolint:gosec // small
		t.Fatalf("ledger %+v after %d messages", l, n)
	}
	inOrder(t, fakekafka.ReadDifferent(t, c, "t", n))
	r.Stop()
}

func errorsOfProduce(rnd *rand.Rand) *kerr.Error {
	all := []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.RequestTimedOut, kerr.NotEnoughReplicas,
		kerr.NotEnoughReplicasAfterAppend, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.KafkaStorageError,
		kerr.UnknownServerError,
	}
	return all[rnd.IntN(len(all))]
}

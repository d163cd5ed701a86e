//go:build real

package real

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Load of TestSyncBacklog. SYNC_BACKLOG, the number of waiting records, comes from the environment.
const (
	backlogWire = 70      // approximate size of a record on the wire
	backlogRate = 4 << 20 // bytes per second; bounds the drain
	backlogTime = 8       // seconds that a short drain takes
	// backlogGrowth bounds the growth of the gateway's memory while the centre is away and while the backlog drains,
	// whatever its size: central.memory, records fetched beyond it, batches being written, and as much again for Go's
	// collector (GOGC=100).
	backlogGrowth = 128 << 20
)

// TestSyncBacklog grows a backlog while the centre is away, four fifths of it in p2 and one in p1, while vehicles send.
// Their PUBLISHes are acknowledged as usual, and the gateway's memory does not grow. When the centre is back, p0 goes
// first, p1 catches up with the vehicles while p2 drains, and in the end the centre has everything once.
func TestSyncBacklog(t *testing.T) {
	n := fromEnv(t, "SYNC_BACKLOG", 200_000)
	r := newSyncRig(t, 1, "at_least_once", 1)
	r.Change("central: {", fmt.Sprintf("central: {bandwidth: %dB/s, ", min(n*backlogWire/backlogTime, backlogRate)))
	check.OK(t, r.Stop(20*time.Second))
	r.Start()
	ledger := filepath.Join(r.Dir, "ledger.txt")
	memory := watchRSS(t, r.Gateway)
	before := runFleet(t, r.Gateway, ledger, 4*time.Second, syncVehicles, fmt.Sprint(4*syncRate))
	r.awaitForwarded(time.Minute, r.outboxEnds())
	base := memory.max()
	r.cutCentre()
	fleet := startFleet(t, r.Gateway, "fleet", ledger, syncVehicles, 4*syncRate)
	r.fillBacklog("central.p1", "fleet.second", n/5)
	r.fillBacklog("central.p2", "fleet.third", n-n/5)
	check.Within(t, 20*time.Second, "central-kafka in /readyz", func() error { return r.degraded("central-kafka") })
	away := memory.max()
	waiting := func(topic string) int64 { return r.outboxEnds().sum(topic) - r.committed().sum(topic) }
	alarms, low, began := waiting("central.p0"), waiting("central.p2"), time.Now()
	r.restoreCentre()
	check.Within(t, 10*time.Minute, "p0 level", func() error { return r.level("central.p0") })
	first, left := time.Since(began), waiting("central.p2")
	check.Within(t, 10*time.Minute, "p1 level", func() error { return r.level("central.p1") })
	second, still := time.Since(began), waiting("central.p2")
	report := harness.EndFleet(t, fleet)
	r.awaitForwarded(30*time.Minute, r.outboxEnds())
	all := time.Since(began)
	fmt.Printf("backlog of %d: RSS %d MiB, while the centre is away %d, at most %d\n", n, base>>20, away>>20, memory.max()>>20)
	fmt.Printf("  PUBACK p99 %.1f ms before, %.1f ms from then on\n", before.Latency.P99, report.Latency.P99)
	fmt.Printf("  p0 (%d waiting) level after %.1fs, with %d of p2 left of %d; p1 after %.1fs, with %d left; all after %.1fs\n",
		alarms, first.Seconds(), left, low, second.Seconds(), still, all.Seconds())
	if grown := away - base; grown > backlogGrowth {
		t.Errorf("RSS grew by %d MiB while the centre was away, bound %d", grown>>20, backlogGrowth>>20)
	}
	if grown := memory.max() - base; grown > backlogGrowth {
		t.Errorf("RSS grew by %d MiB, bound %d", grown>>20, backlogGrowth>>20)
	}
	if report.Refused != 0 || report.Reconnects != 0 || report.Acknowledged == 0 {
		t.Errorf("vehicles noticed: %+v", report)
	}
	if left < low*8/10 || still < low/2 {
		t.Errorf("of the %d records of p2 %d were left when p0 was level, and %d when p1 was", low, left, still)
	}
	r.sameNumber()
}

// level returns nil when a topic lags by no more than two seconds of the vehicles' messages.
func (r *syncRig) level(topic string) error {
	if n := r.outboxEnds().sum(topic) - r.committed().sum(topic); n > 2*4*syncVehicles*syncRate {
		return fmt.Errorf("%d records of %s wait", n, topic)
	}
	return nil
}

// sameNumber fails the test if the centre and the outbox have different numbers of records.
func (r *syncRig) sameNumber() {
	r.t.Helper()
	for _, topic := range syncTopics {
		sent, came := r.ends(r.cell, topic.outbox).sum(topic.outbox), r.ends(r.central, topic.central).sum(topic.central)
		if sent != came {
			r.t.Errorf("%d records in %s, %d in %s", sent, topic.outbox, came, topic.central)
		}
	}
}

// fillBacklog writes n records of about 256 bytes with unique values to an outbox topic.
func (r *syncRig) fillBacklog(topic, bound string, n int) {
	r.t.Helper()
	cl := r.cell.Client(r.t, kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	defer cl.Close()
	rng := rand.New(rand.NewPCG(uint64(n), 1)) //nolint:gosec // repeatable
	var failed atomic.Int64
	for range n {
		vin := fmt.Sprintf("LBACKLOG%09d", rng.IntN(5000))
		value := fmt.Appendf(nil, `{"speed":%.1f,"soc":%.1f,"odometer":%.1f,"lat":%.6f,"lon":%.6f,"temp_battery":%.1f,"voltage":%.1f,"current":%.1f,"gear":"D","charging":false,"heading":%d}`,
			rng.Float64()*130, rng.Float64()*100, rng.Float64()*2e5, 31+rng.Float64(), 121+rng.Float64(), 20+rng.Float64()*9, 360+rng.Float64()*30, rng.Float64()*200-100, rng.IntN(360))
		cl.Produce(r.t.Context(), &kgo.Record{
			Topic: topic, Key: []byte(vin), Value: value,
			Headers: []kgo.RecordHeader{{Key: "central-topic", Value: []byte(bound)}, {Key: "vin", Value: []byte(vin)}},
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	check.OK(r.t, cl.Flush(r.t.Context()))
	if failed.Load() > 0 {
		r.t.Fatalf("%d of %d records not written to %s", failed.Load(), n, topic)
	}
}

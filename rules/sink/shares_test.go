package sink

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/state"
)

// stalling evaluates one vehicle's first message only after all other vehicles' messages.
type stalling struct {
	renderer
	vin    string
	others *sync.WaitGroup
	mu     *sync.Mutex
	order  map[string][]uint64
}

func (s stalling) Eval(rec *message.Record, out []engine.Decision) []engine.Decision {
	if rec.VIN() == s.vin {
		s.others.Wait()
	} else {
		defer s.others.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order[rec.VIN()] = append(s.order[rec.VIN()], rec.Seq)
	return out
}

func (stalling) Counts([]engine.RuleCounts) {}
func (stalling) TakeFaults([]engine.Faults) {}
func (stalling) Hold(uint16, bool)          {}

// TestSlowVehicleDelaysNoOther checks that while one vehicle's messages are evaluated, those of all other shards are
// too, in order.
func TestSlowVehicleDelaysNoOther(t *testing.T) {
	t.Parallel()
	const vehicles, each = 50, 8
	d := &Dispatcher{o: Options{Metrics: NewMetrics(nil)}}
	vin := func(i int) string { return fmt.Sprintf("LTEST%012d", i) }
	s := stalling{vin: vin(0), others: &sync.WaitGroup{}, mu: &sync.Mutex{}, order: map[string][]uint64{}}
	d.rounds.use([]evaluator{s, s})
	d.rounds.each = time.Second
	var recs []message.Record
	for i := range vehicles * each {
		v := vin(i % vehicles)
		if v != s.vin && state.ShardOf(v) == state.ShardOf(s.vin) {
			continue // its share is that of its shard
		}
		recs = append(recs, message.Record{Seq: uint64(i + 1), Kind: message.KindPublish, Topic: "v1/" + v + "/up/telemetry"})
		if v != s.vin {
			s.others.Add(1)
		}
	}
	d.publish(recs)
	for v, seqs := range s.order {
		if len(seqs) != each {
			t.Errorf("%s: %d of %d messages evaluated", v, len(seqs), each)
		}
		for i := 1; i < len(seqs); i++ {
			if seqs[i] < seqs[i-1] {
				t.Errorf("%s: evaluated in the order %v", v, seqs)
			}
		}
	}
}

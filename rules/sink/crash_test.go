package sink_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// TestCrashesLoseNothing kills the dispatcher at random moments, with sinks that settle at random and out of order. It
// checks that the ledger always balances, that in the end every message is delivered under one id, and that the order
// per VIN held.
func TestCrashesLoseNothing(t *testing.T) {
	t.Parallel()
	eachSeed(t, 7, crashes)
}

func eachSeed(t *testing.T, salt uint64, run func(t *testing.T, rnd *rand.Rand, rounds int)) {
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			run(t, rand.New(rand.NewPCG(seed, salt)), rounds) //nolint:gosec // a test's choices
		})
	}
}

// crash kills and opens the dispatcher rounds times at random moments of a run, in which messages come and step changes
// what the sinks take. It returns how many messages it published.
func (r *memRig) crash(t *testing.T, rnd *rand.Rand, rounds int, step func()) (sent int) {
	for range rounds {
		for range 1 + rnd.IntN(20) {
			n := 1 + rnd.IntN(120)
			r.Publish(sent, n)
			sent += n
			step()
			r.Balanced()
			if rnd.IntN(8) == 0 {
				check.OK(t, r.Dispatcher.Checkpoint())
			}
		}
		r.Kill()
		if rnd.IntN(2) == 0 {
			r.Tear(rnd)
		}
		r.kafka.Forget()
		r.redis.Forget()
		r.Open()
		r.Balanced()
	}
	return sent
}

func crashes(t *testing.T, rnd *rand.Rand, rounds int) {
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[0].Limits.Messages = 8 << rnd.IntN(6)
		o.Sinks[1].Limits.Messages = 8 << rnd.IntN(4)
	})
	sent := r.crash(t, rnd, rounds, func() {
		r.kafka.Hold(rnd.IntN(2) == 0)
		r.redis.Hold(rnd.IntN(3) > 0)
		r.kafka.Settle(rnd.IntN(100), rnd.IntN(50))
		r.redis.Settle(rnd.IntN(100), rnd.IntN(50))
	})
	r.kafka.Hold(false)
	r.redis.Hold(false)
	r.Settled()
	complete(t, r, sent)
	r.Stop()
}

// TestAnIdleDispatcherLeavesItsDiskAlone checks that checkpoints without changes write nothing.
func TestAnIdleDispatcherLeavesItsDiskAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Publish(0, 10)
	r.Settled()
	check.OK(t, r.Dispatcher.Checkpoint())
	before := r.Writes()
	for range 20 {
		check.OK(t, r.Dispatcher.Checkpoint())
	}
	if after := r.Writes(); after != before {
		t.Fatalf("%d transactions of 20 idle checkpoints", after-before)
	}
	r.Stop()
}

// TestBriefGatewayIsNotARedirectTarget checks that the first checkpoints come before an interval has passed:
// otherwise a gateway that is repeatedly killed early would deliver the same messages every time.
func TestBriefGatewayIsNotARedirectTarget(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) { o.CheckpointInterval = time.Hour })
	for round := range 3 {
		r.Publish(100*round, 100)
		r.Settled()
		r.Await(func() bool { return r.Journal.Stat().Needed["rules"] > r.Journal.Last() })
		delivered := len(r.kafka.Taken())
		r.Kill()
		r.Open()
		r.Settled()
		if again := len(r.kafka.Taken()) - delivered; again > 0 {
			t.Fatalf("round %d: %d messages delivered again", round, again)
		}
	}
	r.Stop()
}

// TestBacklogTakesNoMemory holds a sink while many records come and measures the growth of the heap.
func TestBacklogTakesNoMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("appends 60,000 records")
	}
	r := newRig(t, func(o *sink.Options) {
		for i := range o.Sinks {
			o.Sinks[i].Limits.Messages = 1024
		}
	})
	r.Publish(0, 2000)
	r.Settled()
	r.kafka.Hold(true)
	r.redis.Hold(true)
	r.Publish(2000, 5000)
	r.Evaluated("kafka", 5000)
	before := heap()
	r.Publish(7000, 60000)
	r.Evaluated("kafka", 65000)
	if grown := heap() - before; grown > 8<<20 {
		t.Fatalf("60,000 records of backlog cost %d bytes of heap", grown)
	}
	r.kafka.Forget()
	r.redis.Forget()
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below
}

// TestAnotherJournalIsAccountedFor loses the journal while messages wait: they count as lost, and the new journal is
// processed from its beginning.
func TestAnotherJournalIsAccountedFor(t *testing.T) {
	t.Parallel()
	r := newKilledRig(t, 500)
	r.LoseJournal()
	for range 2 {
		r.Open()
		r.Settled()
		if l := r.Ledger("kafka"); l.Dropped[sink.JournalLost] != 500 {
			t.Fatalf("ledger %+v", l)
		}
		r.Kill()
	}
	r.Open()
	r.Publish(500, 100)
	r.Settled()
	if l := r.Ledger("kafka"); l.Delivered != 100 || l.Received != 600 {
		t.Fatalf("ledger %+v", l)
	}
	r.Stop()
}

// TestTheLogOfAnotherJournalDoesNotStopTheStart loses the journal while messages wait, and kills the gateway after the
// checkpoint that trims the rest of the previous journal: the decision log's headers must not contain its sequences.
func TestTheLogOfAnotherJournalDoesNotStopTheStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[0].Limits.Messages = 16
		o.CheckpointInterval = 0
	})
	checkpoint := func() {
		t.Helper()
		check.OK(t, r.Dispatcher.Checkpoint())
	}
	r.kafka.Hold(true)
	r.Publish(0, 500)
	r.Evaluated("kafka", 500)
	checkpoint()
	r.Kill()
	r.kafka.Forget()
	r.kafka.Hold(false)
	r.LoseJournal()
	for round := range 4 {
		r.Open()
		r.Publish(500+10*round, 10)
		r.Settled()
		checkpoint()
		r.Kill()
	}
	r.Open()
	r.Settled()
	if l := r.Ledger("kafka"); l.Dropped[sink.JournalLost] != 500 || l.Delivered != 40 || l.Received != 540 {
		t.Fatalf("ledger %+v", l)
	}
	r.Stop()
}

// TestJournalIsDeliveredWithoutStateFile loses the state file and so the rules in force: the journal's records wait
// for the next applied rules and do not count as filtered.
func TestJournalIsDeliveredWithoutStateFile(t *testing.T) {
	t.Parallel()
	r := newKilledRig(t, 300)
	r.LoseState()
	r.Open()
	r.Publish(300, 100)
	r.Settled()
	complete(t, r, 400)
	r.Stop()
}

// newDamagedRig returns a stopped rig with 250 messages that are not evaluated; the batch with message 210 is damaged.
func newDamagedRig(t *testing.T) *memRig {
	t.Helper()
	r := newRig(t, nil)
	r.Publish(0, 100)
	r.Settled()
	r.Stop()
	r.PublishUnseen(100, 250)
	r.Damage(210)
	return r
}

// newKilledRig returns a rig that was killed while the first n messages waited for Kafka.
func newKilledRig(t *testing.T, n int) *memRig {
	t.Helper()
	r := newRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages = 16 })
	r.kafka.Hold(true)
	r.Publish(0, n)
	r.Evaluated("kafka", uint64(n)) //nolint:gosec // small
	check.OK(t, r.Dispatcher.Checkpoint())
	r.Kill()
	r.kafka.Forget()
	r.kafka.Hold(false)
	return r
}

// TestWhatTheDiskLosesIsInTheLedger damages messages that are not evaluated: every sink counts the batch as received
// and dropped, once, also over restarts, and gets all others.
func TestWhatTheDiskLosesIsInTheLedger(t *testing.T) {
	t.Parallel()
	r := newDamagedRig(t)
	for _, end := range []func(){r.Kill, r.Stop, r.Stop} {
		r.Open()
		r.Settled()
		check.OK(t, r.Dispatcher.Checkpoint())
		if l := r.Ledger("kafka"); l.Received != 350 || l.Delivered != 300 || l.Dropped[sink.Corruption] != 50 || len(l.Dropped) != 1 {
			t.Fatalf("kafka: %+v", l)
		}
		if l := r.Ledger("redis"); l.Received != 350 || l.Dropped[sink.Corruption] != 50 || l.Delivered+l.Filtered != 300 {
			t.Fatalf("redis: %+v", l)
		}
		end()
	}
	seen := map[string]bool{}
	for _, m := range r.kafka.Taken() {
		if m.Rule == "all" {
			seen[m.Value] = true
		}
	}
	if len(seen) != 300 || seen[sinktest.Payload(210)] {
		t.Fatalf("%d messages in kafka", len(seen))
	}
}

// complete compares the sinks' messages with those sent.
func complete(t *testing.T, r *memRig, sent int) {
	t.Helper()
	if l := r.Ledger("kafka"); l.Received != uint64(sent) || l.Delivered != uint64(sent) { //nolint:gosec // small
		t.Fatalf("kafka after %d messages: %+v", sent, l)
	}
	ids := map[string]string{} // by rule and payload
	for _, m := range append(r.kafka.Taken(), r.redis.Taken()...) {
		key := m.Rule + m.Topic + m.Value
		if was, ok := ids[key]; ok && was != m.ID {
			t.Fatalf("%s came under %s and %s", key, was, m.ID)
		}
		ids[key] = m.ID
	}
	for i := range sent {
		if ids["allt"+sinktest.Payload(i)] == "" {
			t.Fatalf("message %d of %d was not delivered", i, sent)
		}
	}
	sinktest.InOrder(t, r.kafka.Taken())
	sinktest.InOrder(t, r.redis.Taken())
	lows(t, r.kafka.Taken(), sent)
}

// lows checks the stateful rule: it fires exactly once per fall, however often the evaluator was killed. Which messages
// fire depends only on the order per vehicle.
func lows(t *testing.T, all []sinktest.Message, sent int) {
	t.Helper()
	fired := map[string]bool{}
	for _, m := range all {
		if m.Rule == "low" {
			fired[m.Value] = true
		}
	}
	armed := map[int]bool{}
	for i := range sent {
		v := i % 7
		if _, known := armed[v]; !known {
			armed[v] = true
		}
		want := armed[v] && i%10 == 9
		if want {
			armed[v] = false
		}
		if i%10 == 0 {
			armed[v] = true
		}
		if fired[sinktest.Payload(i)] != want {
			t.Fatalf("the threshold on message %d fired: %t", i, !want)
		}
	}
}

package sink_test

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"cellgate/rules/sink"
)

// follower is a Watcher of a rig's Kafka sink that records its calls.
type follower struct {
	t    *testing.T
	mu   sync.Mutex
	mark uint64
	open map[uint64]bool
}

func (f *follower) Reached(mark uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if mark <= f.mark {
		f.t.Errorf("the mark came to %d after %d", mark, f.mark)
	}
	f.mark = mark
}

func (f *follower) Begun(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[seq] = true
}

func (f *follower) Done(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, seq)
}

func (f *follower) told() (mark uint64, open map[uint64]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mark, maps.Clone(f.open)
}

// watchedRig is a rig whose Kafka sink has a new watcher after each start.
func watchedRig(t *testing.T, change func(*sink.Options)) (r *memRig, watcher func() *follower) {
	t.Helper()
	var f *follower
	r = newRig(t, func(o *sink.Options) {
		f = &follower{t: t, open: map[uint64]bool{}}
		o.Sinks[0].Watch = f
		if change != nil {
			change(o)
		}
	})
	return r, func() *follower { return f }
}

// A record is done when the sink has it, not when earlier ones are done.
func TestWatchFollowsEachRecord(t *testing.T) {
	t.Parallel()
	r, watcher := watchedRig(t, nil)
	r.kafka.Hold(true)
	r.Publish(0, 10)
	first, last := r.Journal.Last()-9, r.Journal.Last()
	r.Await(func() bool { mark, open := watcher().told(); return mark == last && len(open) == 10 })
	r.kafka.Settle(1, 1)
	if _, open := watcher().told(); len(open) != 9 || open[first+1] {
		t.Errorf("%v", open)
	}
	r.kafka.Hold(false)
	r.Await(func() bool { _, open := watcher().told(); return len(open) == 0 })
	r.Stop()
}

// What a watcher takes for settled is at the sink with all its messages, while a topic comes and goes, the sink lags,
// and over kills.
func TestWatchReportsWhatHasSettled(t *testing.T) {
	t.Parallel()
	r, watcher := watchedRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages = 64 })
	r.Apply(twoTopics)
	sent := map[uint64]int{} // messages of a record
	published := 0
	check := func() {
		t.Helper()
		mark, open := watcher().told()
		left := maps.Clone(sent)
		seen := map[string]bool{} // a kill repeats messages
		for _, m := range r.kafka.Settled() {
			if key := m.ID + m.Topic; !seen[key] {
				seen[key] = true
				left[m.Seq]--
			}
		}
		for seq, n := range left {
			if n > 0 && seq <= mark && !open[seq] {
				t.Fatalf("record %d is taken for settled with %d messages under way; the mark is %d", seq, n, mark)
			}
		}
	}
	publish := func(n int) {
		first := r.Journal.Last() + 1
		r.Publish(published, n)
		for i := range n {
			sent[first+uint64(i)] = 1 //nolint:gosec // small
			if (published+i)%3 == 0 {
				sent[first+uint64(i)]++ //nolint:gosec // small
			}
		}
		published += n
	}
	rnd := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a test's
	for range 40 {
		r.kafka.Shut("away", rnd.IntN(2) == 0)
		r.kafka.Hold(rnd.IntN(3) == 0)
		publish(1 + rnd.IntN(100))
		r.kafka.Settle(rnd.IntN(50), rnd.IntN(20))
		check()
		if rnd.IntN(5) == 0 {
			r.Kill()
			r.kafka.Forget()
			r.Open()
			r.Await(func() bool { // a watcher learns what had settled before the start
				mark, _ := watcher().told()
				return mark > 0 || r.Dispatcher.Lag()[0].Cursor == 0
			})
			r.Apply(twoTopics)
		}
		check()
	}
	r.kafka.Hold(false)
	r.kafka.Shut("away", true)
	publish(90)
	last := r.Journal.Last()
	r.Await(func() bool { mark, open := watcher().told(); check(); return mark == last && len(open) >= 30 })
	r.kafka.Shut("away", false)
	r.Settled()
	r.Await(func() bool { mark, open := watcher().told(); check(); return mark == last && len(open) == 0 })
	r.Stop()
}

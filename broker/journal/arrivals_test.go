package journal

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// syncTime is how long a sync takes in these tests.
const syncTime = 200 * time.Microsecond

// timed runs fn on a journal with a fake clock, where only syncs take time.
func timed(t *testing.T, fn func(t *testing.T, j *Journal, syncs *atomic.Int64)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var syncs atomic.Int64
		mem := waltest.New()
		mem.Forget = func(waltest.Op, string) bool { return true } // nothing crashes here, and each sync copies the file
		mem.Before = func(o waltest.Op, _ string) error {
			if o == waltest.Sync {
				syncs.Add(1)
				time.Sleep(syncTime)
			}
			return nil
		}
		o := testOptions("/j")
		o.FS, o.SegmentBytes, o.MaxBytes = mem, 512<<10, 4<<20
		j, _ := open(t, o)
		j.Retain("none", 1<<62)
		v := newVehicle()
		v.publish(t, j) // creates the segment
		<-v.acked
		time.Sleep(time.Second)
		syncs.Store(0)
		fn(t, j, &syncs)
		check.OK(t, j.Close(context.Background()))
	})
}

// vehicle is a connection with one message in flight.
type vehicle struct {
	acked chan struct{}
	sent  time.Time
	took  time.Duration // until the last acknowledgement
}

func newVehicle() *vehicle { return &vehicle{acked: make(chan struct{}, 1)} }

func (v *vehicle) Durable(uint64) {
	v.took = time.Since(v.sent)
	v.acked <- struct{}{}
}

func (v *vehicle) publish(t *testing.T, j *Journal) {
	v.sent = time.Now()
	if _, err := j.Append([]message.Record{record(1)}, v); err != nil {
		t.Error(err)
	}
}

// fleet publishes from n vehicles in turn, with the given gaps in turn between messages. It returns the time of the
// slowest acknowledgement.
func fleet(t *testing.T, j *Journal, n, messages int, gaps ...time.Duration) (slowest time.Duration) {
	vehicles := make([]*vehicle, n)
	for i := range vehicles {
		vehicles[i] = newVehicle()
	}
	for i := range messages {
		v := vehicles[i%n]
		if i >= n {
			<-v.acked
			slowest = max(slowest, v.took)
		}
		v.publish(t, j)
		time.Sleep(gaps[i%len(gaps)])
	}
	time.Sleep(time.Second)
	for _, v := range vehicles[:min(n, messages)] {
		<-v.acked
		slowest = max(slowest, v.took)
	}
	return slowest
}

func TestOccasionalPublishersShareCommits(t *testing.T) {
	timed(t, func(t *testing.T, j *Journal, syncs *atomic.Int64) {
		const messages = 600
		slowest := fleet(t, j, 200, messages, 500*time.Microsecond)
		if n := syncs.Load(); n > 0.65*messages {
			t.Errorf("%d commits for %d messages, 2,000 a second, by 200 vehicles", n, messages)
		}
		if most := arrivalPace + 2*syncTime; slowest > most {
			t.Errorf("a message waited %v, want at most %v: the pace, the commit under way and its own", slowest, most)
		}
	})
}

func TestNoWaitWhenNoMoreCallsCome(t *testing.T) {
	timed(t, func(t *testing.T, j *Journal, _ *atomic.Int64) {
		pairs := []time.Duration{arrivalPace / 3, 10 * arrivalPace} // the second of two would wait for a third
		if slowest := fleet(t, j, 200, 300, pairs...); slowest != syncTime {
			t.Errorf("a message waited %v while two come every %v, want the sync's %v", slowest, pairs[1], syncTime)
		}
		fleet(t, j, 200, 400, arrivalPace/2)
		if slowest := fleet(t, j, 2, 2, pairs...); slowest != syncTime { // after the others have stopped
			t.Errorf("one of two messages waited %v, want the sync's %v", slowest, syncTime)
		}
	})
}

func TestNoWaitForCallersThatWaitForTheirAcknowledgement(t *testing.T) {
	for _, n := range []int{1, 2, 3, 40, 63} {
		t.Run("", func(t *testing.T) {
			timed(t, func(t *testing.T, j *Journal, _ *atomic.Int64) {
				const rounds = 100
				done := make(chan struct{})
				begun := time.Now()
				for range n {
					go func() {
						v := newVehicle()
						for range rounds {
							v.publish(t, j)
							<-v.acked
						}
						done <- struct{}{}
					}()
				}
				for range n {
					<-done
				}
				// The pause for n waiters, some of whom may come one commit later than the others.
				most := 2 * max(syncTime, time.Duration(n)*(callPause+waiterPause))
				if n == 1 {
					most = syncTime
				}
				if mean := time.Since(begun) / rounds; mean > most {
					t.Errorf("%d producers in lockstep waited %v each time, want at most %v", n, mean, most)
				}
			})
		})
	}
}

// A connection that waits for each acknowledgement is not delayed by vehicles that publish now and then.
func TestOneInLockstepAmongOthers(t *testing.T) {
	timed(t, func(t *testing.T, j *Journal, _ *atomic.Int64) {
		ended := make(chan struct{})
		go func() {
			fleet(t, j, 200, 800, 500*time.Microsecond)
			close(ended)
		}()
		time.Sleep(100 * time.Millisecond)
		v, begun := newVehicle(), time.Now()
		const rounds = 300
		for range rounds {
			v.publish(t, j)
			<-v.acked
		}
		if mean := time.Since(begun) / rounds; mean > 2*syncTime {
			t.Errorf("an acknowledgement took %v, want at most the commit under way and its own, %v", mean, 2*syncTime)
		}
		<-ended
	})
}

func TestReaderWakesOnlyForWantedRecords(t *testing.T) {
	timed(t, func(t *testing.T, j *Journal, syncs *atomic.Int64) {
		r, err := j.NewReader(0)
		check.OK(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wakes, at atomic.Int64
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			for r.Await(ctx, message.FlagResult) == nil {
				wakes.Add(1)
				_, ok, err := r.TryNext(message.FlagResult)
				if err != nil {
					t.Error(err)
				}
				if ok {
					at.Store(time.Now().UnixNano())
				}
			}
		}()
		synctest.Wait()
		begun := time.Now()
		fleet(t, j, 200, 400, 500*time.Microsecond)
		took, n := time.Since(begun)-time.Second, wakes.Load()
		if most := int64(took/passPace) + 1; n > most || n == 0 {
			t.Errorf("woken %d times by %d commits in %v, want once each %v, %d", n, syncs.Load(), took, passPace, most)
		}
		if r.Position() != j.Durable() {
			t.Errorf("stands at %d, durable is %d: what nobody wants is not passed over", r.Position(), j.Durable())
		}
		rec := record(1)
		rec.Topic = "v1/" + rec.Client + "/res/1/succeeded"
		v := newVehicle()
		_, err = j.Append([]message.Record{rec}, v)
		check.OK(t, err)
		<-v.acked
		durable := time.Now().UnixNano()
		synctest.Wait()
		if at.Load() != durable {
			t.Errorf("a record that it wants was read %v after it was durable", time.Duration(at.Load()-durable))
		}
		cancel()
		<-followed
		_ = r.Close()
	})
}

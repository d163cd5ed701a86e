package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/journal"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
)

const (
	// lookAtClock is how often the wall clock is compared with the monotonic clock.
	lookAtClock = time.Second
	// saveClock is how often the time is saved. After a kill the saved time is at most that old.
	saveClock = time.Minute
	// doubtClock is how long /readyz reports a step.
	doubtClock = 10 * time.Minute
)

// Keys of the clock in the state file.
var (
	bucketClock = []byte("clock")
	keyClock    = []byte("clock")
	keyPresence = []byte("presence") // last epoch, ms
)

// timekeeper is the gateway's clock, and watches the machine's.
type timekeeper struct {
	*clock.Clock
	db   *statefile.DB
	log  *slog.Logger
	jump time.Duration // at the start, as returned by clock.New
	save chan struct{} // capacity 1: save at once

	epoch int64 // of presence, and of the vehicles' connections in a cell with one gateway

	mu   sync.Mutex
	step time.Duration // last step; 0 for none
	at   time.Time     // time of the step, by Now
}

func openTimekeeper(db *statefile.DB, source clock.Source, log *slog.Logger) (*timekeeper, error) {
	var saved clock.Saved
	err := db.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketClock)
		if err != nil {
			return err
		}
		if v := b.Get(keyClock); v != nil {
			return json.Unmarshal(v, &saved)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("data_dir: state.db: the clock: %w", err)
	}
	t := &timekeeper{db: db, log: log, save: make(chan struct{}, 1)}
	t.Clock, t.jump = clock.New(source, saved)
	if t.jump != 0 {
		t.note(t.jump)
		log.Warn("the wall clock moved since the last run by more than the stop explains; nothing is deleted by calendar time",
			slog.Duration("by", t.jump), slog.Time("was", time.UnixMilli(saved.Wall).UTC()), slog.Time("is", t.Wall().UTC()))
	}
	return t, t.store()
}

// stepped handles a step reported by the journal.
func (t *timekeeper) stepped(s clock.Step) {
	t.Stepped(s.By())
	t.note(s.By())
	select {
	case t.save <- struct{}{}:
	default:
	}
}

func (t *timekeeper) note(by time.Duration) {
	now := t.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step, t.at = by, now
}

// dependency reports a step for a while.
func (t *timekeeper) dependency() (remote.Health, bool) {
	t.mu.Lock()
	step, at := t.step, t.at
	t.mu.Unlock()
	ago := t.Now().Sub(at)
	if step == 0 || ago >= doubtClock {
		return remote.Health{}, false
	}
	reason := fmt.Sprintf("the wall clock stepped by %s, %s ago: check the time service of this machine", step, ago.Round(time.Second))
	return remote.Health{Name: "clock", Since: t.Wall().Add(-ago).UTC(), Reason: reason}, true
}

func (t *timekeeper) store() error {
	data, err := json.Marshal(t.Save())
	if err != nil {
		return err
	}
	return t.db.Update(func(tx *statefile.Tx) error { return tx.Bucket(bucketClock).Put(keyClock, data) })
}

// run watches the wall clock until ctx ends.
func (t *timekeeper) run(ctx context.Context, j *journal.Journal) {
	look, save := time.NewTicker(lookAtClock), time.NewTicker(saveClock)
	defer look.Stop()
	defer save.Stop()
	for {
		select {
		case <-look.C:
			j.LookAtClock()
			continue
		case <-t.save:
		case <-save.C:
		case <-ctx.Done():
		}
		if err := t.store(); err != nil {
			t.log.Error("time not saved; after a restart, expiries are late", slog.Any("err", err))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// presenceEpoch returns an epoch above that of every earlier start, whatever the clock shows. Only the first one is the
// clock's time: consumers may know events from before a loss of the state file.
func (t *timekeeper) presenceEpoch() (int64, error) {
	epoch := t.Wall().UnixMilli()
	err := t.db.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketClock)
		if v := b.Get(keyPresence); v != nil {
			var last int64
			if err := json.Unmarshal(v, &last); err != nil {
				return err
			}
			epoch = last + 1
		}
		data, err := json.Marshal(epoch)
		if err != nil {
			return err
		}
		return b.Put(keyPresence, data)
	})
	if err != nil {
		return 0, fmt.Errorf("data_dir: state.db: the epoch of presence: %w", err)
	}
	t.epoch = epoch
	return epoch, nil
}

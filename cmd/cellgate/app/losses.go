package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cellgate/auth"
	"cellgate/broker/journal"
	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/problem"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
	"cellgate/rules/sink"
)

const (
	// maxLosses bounds the losses kept, acknowledged ones included.
	maxLosses = 200
	// saveLosses is how often the journal is asked for new damage.
	saveLosses = time.Second
	// lossesShown is how many losses /readyz describes.
	lossesShown = 3
)

// Parts of data_dir that can be lost.
const (
	partState     = "state"
	partJournal   = "journal"
	partKeys      = "keys"
	partOperators = "operators"
)

// Loss is a part of data_dir that was found missing or damaged while the gateway went on without it.
type Loss struct {
	ID    string    `json:"id"` // the same place of the journal has the same one after a restart
	Part  string    `json:"part"`
	What  string    `json:"what"`
	Found time.Time `json:"found"`
	// Acknowledged and By are set once an operator has acknowledged it.
	Acknowledged time.Time `json:"acknowledged,omitzero"`
	By           string    `json:"by,omitempty"`
}

// DroppedLoss counts a sink's messages that the journal no longer had.
type DroppedLoss struct {
	Sink         string `json:"sink"`
	Reason       string `json:"reason"`
	Messages     uint64 `json:"messages"`
	Acknowledged uint64 `json:"acknowledged"` // how many of them
}

// LossAnswer is GET /v1/losses, newest first.
type LossAnswer struct {
	// Unacknowledged is the number of Losses without an acknowledgement.
	Unacknowledged int           `json:"unacknowledged"`
	Losses         []Loss        `json:"losses"`
	Dropped        []DroppedLoss `json:"dropped"`
}

// Keys of the losses in the state file.
func bucketLosses() []byte { return []byte("losses") }
func keyLosses() []byte    { return []byte("all") }

// keptLosses are the losses in the state file.
type keptLosses struct {
	Losses []Loss `json:"losses"`
	// Dropped has the acknowledged messages by sink and reason.
	Dropped map[string]map[string]uint64 `json:"dropped"`
}

// losses remembers what was lost of data_dir until an operator has acknowledged it.
type losses struct {
	log    *slog.Logger
	db     *statefile.DB
	damage func() []wal.Corruption  // of the journal, since it was opened; nil before
	epoch  uint64                   // of the journal
	ledger func() []sink.SinkLedger // nil before there is one
	saving sync.Mutex               // one write at a time

	mu    sync.Mutex
	kept  keptLosses
	dirty bool
	seen  int       // how much of damage is in kept
	since time.Time // when messages were first seen lost
}

// openLosses reads the losses that earlier starts have found.
func openLosses(db *statefile.DB, log *slog.Logger) (*losses, error) {
	l := &losses{db: db, log: log}
	err := db.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketLosses())
		if err != nil {
			return err
		}
		if v := b.Get(keyLosses()); v != nil {
			return json.Unmarshal(v, &l.kept)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("data_dir: state.db: losses: %w", err)
	}
	return l, nil
}

// note records a loss and makes it durable: the next start finds the part recreated.
func (l *losses) note(part, what string) error {
	now := time.Now().UTC()
	l.mu.Lock()
	l.addLocked(&Loss{ID: part + " " + now.Format(time.RFC3339Nano), Part: part, What: what, Found: now})
	l.mu.Unlock()
	return l.save()
}

// addLocked adds a loss unless it is known. Beyond the bound the oldest acknowledged one makes room, or else the oldest
// except the first, which says when it began.
func (l *losses) addLocked(loss *Loss) {
	all := l.kept.Losses
	if slices.ContainsFunc(all, func(o Loss) bool { return o.ID == loss.ID }) {
		return
	}
	if len(all) >= maxLosses {
		i := max(slices.IndexFunc(all, func(o Loss) bool { return !o.Acknowledged.IsZero() }), 1)
		all = slices.Delete(all, i, i+1)
	}
	l.kept.Losses, l.dirty = append(all, *loss), true
}

// watchJournal makes the journal's damage count, from its opening on.
func (l *losses) watchJournal(j *journal.Journal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch, l.damage = j.Epoch(), func() []wal.Corruption { return j.Stat().Corruptions }
}

// watchLedger makes the messages count that sinks have lost.
func (l *losses) watchLedger(ledger func() []sink.SinkLedger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger = ledger
}

// gatherLocked adds the damage that the journal has found since the last call.
func (l *losses) gatherLocked() {
	if l.damage == nil {
		return
	}
	all := l.damage()
	for _, c := range all[l.seen:] {
		l.addLocked(&Loss{
			ID: fmt.Sprintf("%x/%s/%d/%d", l.epoch, c.File, c.Offset, c.Length), Part: partJournal, What: c.String(), Found: time.Now().UTC(),
		})
	}
	l.seen = len(all)
}

// droppedLocked returns the messages that sinks have lost.
func (l *losses) droppedLocked() (all []DroppedLoss) {
	if l.ledger == nil {
		return nil
	}
	for _, s := range l.ledger() {
		for _, reason := range []string{sink.Corruption, sink.JournalLost} {
			if n := s.Dropped[reason]; n > 0 {
				all = append(all, DroppedLoss{s.Sink, reason, n, min(n, l.kept.Dropped[s.Sink][reason])})
			}
		}
	}
	return all
}

func (l *losses) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	l.gatherLocked()
	dirty := l.dirty
	l.dirty = false
	data, err := json.Marshal(&l.kept)
	l.mu.Unlock()
	if !dirty || err != nil {
		return err
	}
	err = l.db.Update(func(tx *statefile.Tx) error { return tx.Bucket(bucketLosses()).Put(keyLosses(), data) })
	if err != nil {
		l.mu.Lock()
		l.dirty = true
		l.mu.Unlock()
		return fmt.Errorf("losses: %w", err)
	}
	return nil
}

// run saves what is found until ctx ends.
func (l *losses) run(ctx context.Context) {
	failing := false
	for again := true; again; {
		again = remote.Pause(ctx, saveLosses)
		err := l.save()
		if err != nil && !failing {
			l.log.Error("losses not recorded, trying again", slog.Any("err", err))
		}
		failing = err != nil
	}
}

// acknowledge records that an operator has acknowledged all losses so far.
func (l *losses) acknowledge(by string) error {
	l.mu.Lock()
	l.gatherLocked()
	before := keptLosses{slices.Clone(l.kept.Losses), l.kept.Dropped}
	now := time.Now().UTC()
	for i := range l.kept.Losses {
		if one := &l.kept.Losses[i]; one.Acknowledged.IsZero() {
			one.Acknowledged, one.By = now, by
		}
	}
	known := make(map[string]map[string]uint64)
	for _, d := range l.droppedLocked() {
		if known[d.Sink] == nil {
			known[d.Sink] = make(map[string]uint64)
		}
		known[d.Sink][d.Reason] = d.Messages
	}
	l.kept.Dropped, l.dirty, l.since = known, true, time.Time{}
	l.mu.Unlock()
	err := l.save()
	if err != nil {
		l.mu.Lock()
		l.kept = before
		l.mu.Unlock()
	}
	return err
}

func (l *losses) answer() LossAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gatherLocked()
	a := LossAnswer{Losses: append([]Loss{}, l.kept.Losses...), Dropped: append([]DroppedLoss{}, l.droppedLocked()...)}
	slices.Reverse(a.Losses)
	for i := range a.Losses {
		if a.Losses[i].Acknowledged.IsZero() {
			a.Unacknowledged++
		}
	}
	return a
}

// dependency reports losses that no operator has acknowledged.
func (l *losses) dependency() (remote.Health, bool) {
	a := l.answer()
	h := remote.Health{Name: "losses"}
	var texts []string
	for i := range slices.Backward(a.Losses) {
		one := &a.Losses[i]
		if !one.Acknowledged.IsZero() {
			continue
		}
		if h.Since.IsZero() {
			h.Since = one.Found
		}
		texts = append(texts, one.Part+": "+one.What)
	}
	if more := len(texts) - lossesShown; more > 0 {
		texts = append(texts[:lossesShown], fmt.Sprintf("and %d more", more))
	}
	if lost := droppedTexts(a.Dropped); len(lost) > 0 {
		texts = append(texts, "lost are "+strings.Join(lost, ", "))
		h.Since = cmp.Or(h.Since, l.lostSince())
	}
	if len(texts) == 0 {
		return remote.Health{}, false
	}
	h.Reason = strings.Join(texts, "; ") + ": `cellgate losses list` shows all; check the disk, then run `cellgate losses acknowledge`"
	return h, true
}

func (l *losses) lostSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		l.since = time.Now().UTC()
	}
	return l.since
}

func droppedTexts(all []DroppedLoss) (texts []string) {
	for _, d := range all {
		if d.Messages > d.Acknowledged {
			texts = append(texts, fmt.Sprintf("%d messages for %s (%s)", d.Messages-d.Acknowledged, d.Sink, d.Reason))
		}
	}
	return texts
}

// readings returns the metric of the losses that no operator has acknowledged.
func (l *losses) readings() *metric.Readings {
	r := &metric.Readings{}
	what := r.Add("losses_unacknowledged", "Losses of data_dir that no operator has acknowledged, by part.", "part")
	r.Read = func(to metric.Sample) {
		a := l.answer()
		n := map[string]int{partState: 0, partJournal: 0, partKeys: 0, partOperators: 0}
		for i := range a.Losses {
			if a.Losses[i].Acknowledged.IsZero() {
				n[a.Losses[i].Part]++
			}
		}
		if len(droppedTexts(a.Dropped)) > 0 {
			n[partJournal] = max(n[partJournal], 1)
		}
		for _, part := range slices.Sorted(maps.Keys(n)) {
			to.Gauge(what, float64(n[part]), part)
		}
	}
	return r
}

func (a *gateway) listLosses(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.losses.answer())
}

// acknowledgeLosses ends the line of /readyz about losses.
func (a *gateway) acknowledgeLosses(w http.ResponseWriter, r *http.Request) {
	if err := a.losses.acknowledge(auth.CallerOf(r).By); err != nil {
		problem.Write(w, http.StatusServiceUnavailable, "nothing was changed", err.Error(), nil)
		return
	}
	writeJSON(w, http.StatusOK, a.losses.answer())
}

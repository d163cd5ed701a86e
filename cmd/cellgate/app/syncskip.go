package app

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"cellgate/auth"
	"cellgate/broker/shared/problem"
	"cellgate/broker/shared/statefile"
	syncer "cellgate/sync"
)

// bucketSkips holds the gaps that operators have skipped, by number: JSON of SkippedGap.
func bucketSkips() []byte { return []byte("sync skips") }

// maxSkips is how many of them are remembered; the audit log has all.
const maxSkips = 1000

// skipTimeout is how long a skip waits for what is under way before the gap, and for the cell's Kafka.
const skipTimeout = 10 * time.Second

func gapOf(g *syncer.Gap) LaneGap {
	l := LaneGap{
		Lane: g.Lane, Topic: g.Topic, Partition: g.Partition, From: g.From, Next: g.To, Anew: g.Anew, Since: g.Since.UTC(), Reason: g.Reason,
	}
	if n, known := g.Records(); known {
		l.Records = &n
	}
	return l
}

func gapsOf(gaps []syncer.Gap) (all []LaneGap) {
	for i := range gaps {
		all = append(all, gapOf(&gaps[i]))
	}
	return all
}

func (a *gateway) getSync(w http.ResponseWriter, _ *http.Request) {
	if !a.hasCentre(w) {
		return
	}
	skipped, err := a.skips()
	if err != nil {
		problem.Write(w, http.StatusInternalServerError, "", err.Error(), nil)
		return
	}
	writeJSON(w, http.StatusOK, SyncAnswer{Lanes: a.lanes(), Skipped: skipped})
}

func (a *gateway) hasCentre(w http.ResponseWriter) bool {
	if a.sync == nil {
		problem.Write(w, http.StatusNotFound, "", "this gateway has no sync worker: its configuration has no section central", nil)
	}
	return a.sync != nil
}

// skipSync goes on behind the gaps at which lanes stand here.
func (a *gateway) skipSync(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Lane string `json:"lane"`
	}{}
	if !a.hasCentre(w) || !readJSON(w, r, &body) {
		return
	}
	if lanes := syncer.LaneNames(); body.Lane != "" && !slices.Contains(lanes[:], body.Lane) {
		problem.Write(w, http.StatusBadRequest, "", fmt.Sprintf("lane %q: want p0, p1 or p2, or none for all", body.Lane), nil)
		return
	}
	gaps := a.sync.Gaps(body.Lane)
	if len(gaps) == 0 {
		problem.Write(w, http.StatusConflict, "", "no lane stands at a gap on this gateway; /readyz of the one that has the partition names it", nil)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), skipTimeout)
	defer cancel()
	answer := SkipAnswer{Skipped: []SkippedGap{}}
	var failed error
	for i := range gaps {
		s, err := a.skipGap(ctx, r, &gaps[i])
		if errors.Is(err, syncer.ErrNoGap) {
			continue // it has gone to another gateway, or another operator was quicker
		}
		if failed = errors.Join(failed, err); err == nil {
			answer.Skipped = append(answer.Skipped, s)
		}
	}
	if failed != nil {
		problem.Write(w, http.StatusServiceUnavailable, "not every gap was skipped", failed.Error(), map[string]any{"skipped": answer.Skipped})
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// skipGap records what an operator wants, does it, and records and audits that it is done: there is no skip that
// nobody has asked for.
func (a *gateway) skipGap(ctx context.Context, r *http.Request, g *syncer.Gap) (SkippedGap, error) {
	by := auth.CallerOf(r)
	s := SkippedGap{LaneGap: gapOf(g), At: time.Now().UTC(), By: by.By, Issuer: by.ByIssuer}
	n, err := a.recordSkip(0, &s)
	if err != nil {
		return s, err
	}
	done, err := a.sync.Skip(ctx, g)
	if err != nil {
		a.log.Warn("gap not skipped", slog.String("topic", g.Topic), slog.Int("partition", g.Partition), slog.String("by", s.By), slog.Any("error", err))
		return s, err
	}
	s.LaneGap, s.Done = gapOf(&done), true
	s.Since = g.Since.UTC()
	a.audit.Write(auth.AuditEvent{
		At: time.Now(), Event: auth.AuditSkip, Caller: by, Outcome: "skipped",
		What: fmt.Sprintf("%s; goes on at record %d", s.Reason, s.Next),
	})
	_, err = a.recordSkip(n, &s)
	return s, err
}

// recordSkip writes a skip to the state file, as number n or, when that is 0, as the next one, and forgets the oldest
// beyond maxSkips.
func (a *gateway) recordSkip(n uint64, s *SkippedGap) (uint64, error) {
	value, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	err = a.db.Update(func(tx *statefile.Tx) (err error) {
		b := tx.Bucket(bucketSkips())
		if n == 0 {
			if n, err = b.NextSequence(); err != nil {
				return err
			}
		}
		if b.Keys() >= maxSkips {
			if oldest, _ := b.Cursor().First(); oldest != nil {
				if err := b.Delete(slices.Clone(oldest)); err != nil {
					return err
				}
			}
		}
		return b.Put(binary.BigEndian.AppendUint64(nil, n), value)
	})
	if err != nil {
		return 0, fmt.Errorf("record the skip: %w", err)
	}
	return n, nil
}

// skips are those that are remembered, the newest first.
func (a *gateway) skips() ([]SkippedGap, error) {
	all := []SkippedGap{}
	err := a.db.View(func(tx *statefile.Tx) error {
		return tx.Bucket(bucketSkips()).ForEach(func(_, value []byte) error {
			var s SkippedGap
			if err := json.Unmarshal(value, &s); err != nil {
				return err
			}
			all = append(all, s)
			return nil
		})
	})
	slices.Reverse(all)
	return all, err
}

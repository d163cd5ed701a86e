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

// bucketSkips has the gaps that operators have skipped, by number, as JSON of SkippedGap.
func bucketSkips() []byte { return []byte("sync skips") }

// maxSkips is how many skips are kept; the audit log has all.
const maxSkips = 1000

// skipTimeout is how long a skip waits for records under way before the gap, and for the cell's Kafka.
const skipTimeout = 10 * time.Second

func gapOf(g *syncer.Gap) LaneGap {
	l := LaneGap{
		Centre: g.Centre, Lane: g.Lane, Topic: g.Topic, Partition: g.Partition, From: g.From, Next: g.To, Recreated: g.Recreated, Since: g.Since.UTC(), Reason: g.Reason,
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

// skipSync skips the gaps at which lanes of this gateway have stopped.
func (c *centres) skipSync(w http.ResponseWriter, r *http.Request) {
	chosen, lane, ok := c.choose(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), skipTimeout)
	defer cancel()
	answer, found := SkipAnswer{Skipped: []SkippedGap{}}, false
	var failed error
	for _, one := range chosen {
		worker := one.get()
		for _, g := range worker.Gaps(lane) {
			found = true
			s, err := c.skipGap(ctx, r, worker, &g)
			if errors.Is(err, syncer.ErrNoGap) {
				continue // it moved to another gateway, or another operator was faster
			}
			if failed = errors.Join(failed, err); err == nil {
				answer.Skipped = append(answer.Skipped, s)
			}
		}
	}
	switch {
	case !found:
		problem.Write(w, http.StatusConflict, "", "no lane waits at a gap on this gateway; /readyz of the gateway that has the partition names it", nil)
	case failed != nil:
		problem.Write(w, http.StatusServiceUnavailable, "not every gap was skipped", failed.Error(), map[string]any{"skipped": answer.Skipped})
	default:
		writeJSON(w, http.StatusOK, answer)
	}
}

// skipGap records an operator's request, skips the gap, and records and audits that it is done. So every skip has a
// request.
func (c *centres) skipGap(ctx context.Context, r *http.Request, worker *syncer.Syncer, g *syncer.Gap) (SkippedGap, error) {
	by := auth.CallerOf(r)
	s := SkippedGap{LaneGap: gapOf(g), At: time.Now().UTC(), By: by.By, Issuer: by.ByIssuer}
	n, err := c.recordSkip(0, &s)
	if err != nil {
		return s, err
	}
	done, err := worker.Skip(ctx, g)
	if err != nil {
		c.log.Warn("gap not skipped", slog.String("topic", g.Topic), slog.Int("partition", g.Partition), slog.String("by", s.By), slog.Any("err", err))
		return s, err
	}
	s.LaneGap, s.Done = gapOf(&done), true
	s.Since = g.Since.UTC()
	c.audit.Write(auth.AuditEvent{
		At: time.Now(), Event: auth.AuditSkip, Caller: by, Outcome: "skipped",
		What: fmt.Sprintf("%s; continues at record %d", s.Reason, s.Next),
	})
	_, err = c.recordSkip(n, &s)
	return s, err
}

// recordSkip writes a skip to the state file, as number n or, when n is 0, as the next one. It drops the oldest beyond
// maxSkips.
func (c *centres) recordSkip(n uint64, s *SkippedGap) (uint64, error) {
	value, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	err = c.db.Update(func(tx *statefile.Tx) (err error) {
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

// skips returns the recorded skips, newest first.
func (c *centres) skips() ([]SkippedGap, error) {
	all := []SkippedGap{}
	err := c.db.View(func(tx *statefile.Tx) error {
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

//go:build real

package real

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestSyncGap lets retention remove records for the centre while centre and gateway are away. The lane waits there from
// the next start on, also after a kill; the others continue; the lag is never 0 because it is unknown; and after an
// operator's skip the lane continues after the gap with nothing else missing.
func TestSyncGap(t *testing.T) {
	r := newSyncRig(t, 1, "at_least_once", 1)
	ledger := filepath.Join(r.Dir, "ledger.txt")
	operator := r.OperatorToken()
	fleet := startFleet(t, r.Gateway, "fleet", ledger, syncVehicles, 4*syncRate)
	r.central.Await("fleet.third", 30*time.Second, harness.AtLeast(2*syncVehicles*syncRate))
	r.cutCentre()
	before := r.ends(r.cell, "central.p0")
	check.Within(t, 30*time.Second, "a backlog", func() error {
		if n := r.outboxEnds().sum("central.p0") - before.sum("central.p0"); n < 500 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	if report := harness.EndFleet(t, fleet); report.Refused != 0 || report.Acknowledged == 0 {
		t.Errorf("vehicles noticed: %+v", report)
	}
	check.Within(t, time.Minute, "everything in the outbox", func() error { return r.Settled(operator) })
	r.Kill()
	ends, committed := r.outboxEnds(), r.committed()
	kept := r.expire("central.p0", ends, 10)
	gone := ends.sum("central.p0") - committed.sum("central.p0") - kept
	if gone < 100 {
		t.Fatalf("%d records are gone, want some more", gone)
	}
	r.Start()
	r.lagUntil("sync-p0") // the dead member holds its partitions for 10 s
	r.restoreCentre()
	r.awaitForwarded(time.Minute, ends.only("central.p1", "central.p2"))
	r.Kill()
	r.Start()
	r.lagUntil("sync-p0")
	if now := r.committed(); now.sum("central.p0") != committed.sum("central.p0") {
		t.Errorf("the lane that stands has committed %d more", now.sum("central.p0")-committed.sum("central.p0"))
	}
	answer := r.Cellgate("sync", "skip", "p0", "--config", r.Config, "--json")
	var skipped struct {
		Skipped []struct {
			Records int64
			By      string
			Done    bool
		}
	}
	if err := json.Unmarshal([]byte(answer), &skipped); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	sum := int64(0)
	for _, s := range skipped.Skipped {
		sum += s.Records
		if !s.Done || !strings.HasPrefix(s.By, "operator ") {
			t.Errorf("%+v", s)
		}
	}
	if sum != gone {
		t.Errorf("%d records skipped, %d are gone", sum, gone)
	}
	r.Kill() // the answered skip survives
	r.Start()
	r.awaitForwarded(time.Minute, r.outboxEnds()) // a killed gateway has repeated some of it
	check.Within(t, 10*time.Second, "no lag, and all well", func() error {
		if lag := r.lag(); lag != 0 {
			return fmt.Errorf("a lag of %v", lag)
		}
		return r.degraded("")
	})
	fmt.Printf("sync gap: %d records gone, %d kept after them\n", gone, kept)
}

// expire removes all but the last keep records of each partition of a topic, as retention does, and returns how many
// are left.
func (r *syncRig) expire(topic string, ends offsets, keep int64) (left int64) {
	r.t.Helper()
	o := kadm.Offsets{}
	for p, end := range ends {
		if p.topic == topic {
			o.AddOffset(topic, p.partition, max(0, end-keep), -1)
			left += min(end, keep)
		}
	}
	r.withAdmin(r.cell, "expire "+topic, func(ctx context.Context, c *kadm.Client) error {
		res, err := c.DeleteRecords(ctx, o)
		if err != nil {
			return err
		}
		return res.Error()
	})
	return left
}

// lagUntil waits until /readyz names a dependency. Meanwhile the lag must be unknown or correct, and in the end
// correct.
func (r *syncRig) lagUntil(name string) {
	r.t.Helper()
	least := r.waiting("central.p0") // the others may be forwarded meanwhile
	check.Within(r.t, time.Minute, name+" in /readyz", func() error {
		if lag := r.lag(); !math.IsNaN(lag) && lag < least {
			r.t.Fatalf("a lag of %v with %v records waiting", lag, least)
		}
		_, body, err := r.Get("/readyz", "")
		if err == nil && !strings.Contains(string(body), `"`+name+`"`) {
			err = fmt.Errorf("%s", body)
		}
		return err
	})
	check.Within(r.t, 30*time.Second, "the lag", func() error {
		if lag, want := r.lag(), r.waiting("central.p0", "central.p1", "central.p2"); lag != want {
			return fmt.Errorf("%v, want %v", lag, want)
		}
		return nil
	})
}

// waiting returns the number of records of the topics that the group has not committed.
func (r *syncRig) waiting(topics ...string) (n float64) {
	r.t.Helper()
	first := offsets{}
	r.withAdmin(r.cell, "start offsets", func(ctx context.Context, c *kadm.Client) error {
		listed, err := c.ListStartOffsets(ctx, topics...)
		if err != nil {
			return err
		}
		listed.Each(func(o kadm.ListedOffset) { first[place{o.Topic, o.Partition, 0}] = o.Offset })
		return nil
	})
	committed := r.committed()
	for p, end := range r.ends(r.cell, topics...) {
		n += float64(end - max(first[p], committed[p]))
	}
	return n
}

// sum adds up a topic's partitions.
func (o offsets) sum(topic string) (n int64) {
	for p, at := range o {
		if p.topic == topic {
			n += max(0, at)
		}
	}
	return n
}

// only keeps the offsets of some topics.
func (o offsets) only(topics ...string) offsets {
	some := offsets{}
	for p, at := range o {
		for _, topic := range topics {
			if p.topic == topic {
				some[p] = at
			}
		}
	}
	return some
}

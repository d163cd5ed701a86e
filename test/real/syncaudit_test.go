//go:build real

package real

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// syncGroup is the consumer group of the worker.
const syncGroup = "cellgate-sync"

// place is a partition's offset.
type place struct {
	topic     string
	partition int32
	offset    int64
}

// offsets has one offset per partition; its keys are places at offset 0.
type offsets map[place]int64

// repeat is a part of the central topics, per partition, that may hold repeated records.
type repeat struct{ from, to offsets }

func (r repeat) has(at place) bool {
	p := place{at.topic, at.partition, 0}
	return at.offset >= r.from[p] && at.offset < r.to[p]
}

// withAdmin runs do with a direct client, not over a link, until it succeeds.
func (r *syncRig) withAdmin(k *harness.Kafka, what string, do func(context.Context, *kadm.Client) error) {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Direct()...))
	check.OK(r.t, err)
	defer cl.Close()
	check.Within(r.t, time.Minute, what, func() error {
		ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
		defer cancel()
		return do(ctx, kadm.NewClient(cl))
	})
}

// ends returns the present ends of the topics' partitions.
func (r *syncRig) ends(k *harness.Kafka, topics ...string) offsets {
	r.t.Helper()
	all := offsets{}
	r.withAdmin(k, "end offsets", func(ctx context.Context, c *kadm.Client) error {
		listed, err := c.ListEndOffsets(ctx, topics...)
		if err != nil {
			return err
		}
		listed.Each(func(o kadm.ListedOffset) {
			if err == nil {
				err = o.Err
			}
			all[place{o.Topic, o.Partition, 0}] = o.Offset
		})
		return err
	})
	return all
}

func (r *syncRig) outboxEnds() offsets {
	r.t.Helper()
	return r.ends(r.cell, "central.p0", "central.p1", "central.p2")
}

// committed returns the offsets that the worker's group has committed.
func (r *syncRig) committed() offsets {
	r.t.Helper()
	all := offsets{}
	r.withAdmin(r.cell, "committed offsets", func(ctx context.Context, c *kadm.Client) error {
		listed, err := c.FetchOffsets(ctx, syncGroup)
		if err != nil {
			return err
		}
		listed.Each(func(o kadm.OffsetResponse) {
			if err == nil {
				err = o.Err
			}
			all[place{o.Topic, o.Partition, 0}] = o.At
		})
		return err
	})
	return all
}

// awaitForwarded waits until the group has committed the outbox up to ends.
func (r *syncRig) awaitForwarded(limit time.Duration, ends offsets) {
	r.t.Helper()
	check.Within(r.t, limit, "the outbox forwarded", func() error {
		committed := r.committed()
		for p, end := range ends {
			if end > 0 && committed[p] < end {
				return fmt.Errorf("%s/%d: %d committed, want %d", p.topic, p.partition, committed[p], end)
			}
		}
		return nil
	})
}

// source returns where in the outbox a record of the centre came from.
func source(r harness.Record) (place, error) {
	partition, err := strconv.ParseInt(r.Headers["src-partition"], 10, 32)
	if err != nil {
		return place{}, fmt.Errorf("%s/%d@%d: src-partition: %w", r.Topic, r.Partition, r.Offset, err)
	}
	offset, err := strconv.ParseInt(r.Headers["src-offset"], 10, 64)
	if err != nil {
		return place{}, fmt.Errorf("%s/%d@%d: src-offset: %w", r.Topic, r.Partition, r.Offset, err)
	}
	return place{r.Headers["src-topic"], int32(partition), offset}, nil
}

// committedIsThere fails the test if the group has committed records that the centre does not have. It is called while
// no gateway runs.
func (r *syncRig) committedIsThere() {
	r.t.Helper()
	there := map[place]bool{}
	for _, topic := range syncTopics {
		r.central.Each(topic.central, func(rec harness.Record) {
			from, err := source(rec)
			check.OK(r.t, err)
			there[from] = true
		})
	}
	for p, end := range r.committed() {
		for at := range end {
			if !there[place{p.topic, p.partition, at}] {
				r.t.Errorf("%s/%d is committed at %d, and the centre has no %d", p.topic, p.partition, end, at)
				break
			}
		}
	}
}

// audit compares the outbox with the centre's records, and both with the messages acknowledged to the vehicles.
func (r *syncRig) audit(ledger string) {
	r.t.Helper()
	acked, err := harness.ReadFleetLedger(ledger)
	check.OK(r.t, err)
	for _, topic := range syncTopics {
		a := &syncAudit{t: r.t, repeats: r.repeats, outbox: map[place]harness.Record{}, seen: map[place]bool{}, last: map[string]int64{}}
		r.cell.Each(topic.outbox, func(rec harness.Record) { a.outbox[place{rec.Topic, rec.Partition, rec.Offset}] = rec })
		vehicles := harness.NewAuditor(acked)
		r.central.Each(topic.central, func(rec harness.Record) {
			vehicles.Add(rec)
			a.add(rec)
		})
		a.end(topic.central)
		audit, err := vehicles.Audit()
		if err != nil || audit.Err() != nil || audit.Acked == 0 {
			r.t.Errorf("%s: %v %v", topic.central, err, audit.Err())
		}
		fmt.Printf("%s → %s: %d records in the outbox, %d of them forwarded twice; %s\n", topic.outbox, topic.central, len(a.outbox), a.twice, audit)
	}
	if dead := r.cell.Read("central.errors"); len(dead) > 0 {
		r.t.Errorf("%d records in central.errors, the first for %q", len(dead), dead[0].Headers["error"])
	}
}

// syncAudit checks one central topic.
type syncAudit struct {
	t       *testing.T
	repeats []repeat
	outbox  map[place]harness.Record
	seen    map[place]bool
	last    map[string]int64 // highest offset in the outbox so far, per key
	twice   int
	faults  int
}

// complain reports the first few errors.
func (a *syncAudit) complain(format string, args ...any) {
	a.t.Helper()
	if a.faults++; a.faults <= 5 {
		a.t.Errorf(format, args...)
	}
}

// add takes the next record of its partition.
func (a *syncAudit) add(rec harness.Record) {
	a.t.Helper()
	at := place{rec.Topic, rec.Partition, rec.Offset}
	from, err := source(rec)
	if err != nil {
		a.complain("%v", err)
		return
	}
	want, ok := a.outbox[from]
	if !ok {
		a.complain("%v comes from %v, which is not in the outbox", at, from)
		return
	}
	headers := maps.Clone(rec.Headers)
	for _, name := range []string{"src-cell", "src-topic", "src-partition", "src-offset", "via"} {
		delete(headers, name)
	}
	if rec.Key != want.Key || !bytes.Equal(rec.Value, want.Value) || !maps.Equal(headers, want.Headers) || rec.Headers["src-cell"] == "" {
		a.complain("%v is %+v, the outbox has %+v", at, rec, want)
	}
	if a.seen[from] {
		a.twice++
		explained := false
		for _, r := range a.repeats {
			explained = explained || r.has(at)
		}
		if !explained {
			a.complain("%v repeats %v, and no crash explains it", at, from)
		}
		return
	}
	a.seen[from] = true
	if last, ok := a.last[rec.Key]; ok && from.offset < last {
		a.complain("%v brings %v after %d of the same key", at, from, last)
	}
	a.last[rec.Key] = from.offset
}

// end reports what the topic lacks.
func (a *syncAudit) end(topic string) {
	a.t.Helper()
	if lost := len(a.outbox) - len(a.seen); lost != 0 || len(a.outbox) == 0 {
		a.complain("%s lacks %d of %d records", topic, lost, len(a.outbox))
	}
}

// Load of priorities.
const (
	waitingRecords = 200 // of each lane
	waitingBytes   = 500 // of each
	waitingRate    = "60KiB/s"
)

// priorities starts the gateway with little bandwidth on an outbox with the same amount in every lane, all of one key
// and for one topic: the centre's partition shows the order of forwarding.
func (r *syncRig) priorities() {
	r.t.Helper()
	check.OK(r.t, r.Stop(10*time.Second))
	b := check.Read(r.t, r.Config)
	limited := strings.Replace(string(b), "central: {", "central: {bandwidth: "+waitingRate+", ", 1)
	check.OK(r.t, os.WriteFile(r.Config, []byte(limited), 0o600))
	r.fillOutbox("fleet.priorities")
	r.Start()
	r.awaitForwarded(time.Minute, r.outboxEnds())
	var order []string
	r.central.Each("fleet.priorities", func(rec harness.Record) { order = append(order, rec.Headers["src-topic"]) })
	if len(order) != 3*waitingRecords {
		r.t.Fatalf("%d records, want %d", len(order), 3*waitingRecords)
	}
	r.inTurn(order)
}

// inTurn checks that each lane goes before those below it. A lane that is read before p0 has the bandwidth until p0 is read too,
// and p2 has its share next to p1.
func (r *syncRig) inTurn(order []string) {
	r.t.Helper()
	begin, between := slices.Index(order, "central.p0"), map[string]int{}
	fmt.Printf("priorities: %d records at %s, %d before the first of p0", len(order), waitingRate, begin)
	for _, lane := range []string{"central.p0", "central.p1"} {
		for ; slices.Contains(order[begin:], lane); begin++ {
			if order[begin] != lane {
				between[lane]++
			}
		}
		fmt.Printf(", %d of others among those of %s", between[lane], lane)
		if between[lane] > waitingRecords/4 {
			r.t.Errorf("%d records of other lanes went among the %d of %s, want at most %d", between[lane], waitingRecords, lane, waitingRecords/4)
		}
	}
	fmt.Println()
}

// noise returns text that does not compress.
func (r *syncRig) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	return b
}

// fillOutbox writes records of one key into every lane.
func (r *syncRig) fillOutbox(bound string) {
	r.t.Helper()
	cl := r.cell.Client(r.t)
	defer cl.Close()
	var all []*kgo.Record
	for _, topic := range syncTopics {
		for range waitingRecords {
			all = append(all, &kgo.Record{
				Topic: topic.outbox, Key: []byte("one"), Value: r.noise(waitingBytes),
				Headers: []kgo.RecordHeader{{Key: "central-topic", Value: []byte(bound)}},
			})
		}
	}
	check.OK(r.t, cl.ProduceSync(r.t.Context(), all...).FirstErr())
}

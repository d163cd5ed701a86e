package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/harness"
)

// auditor compares the fleets' ledgers with Kafka while both grow, and forgets what it has compared, so that memory
// does not grow with the rounds. Every acknowledged message must be in Kafka, first occurrences of a vehicle's messages
// must be in order, and duplicates must have the same msg-id.
type auditor struct {
	brokers []string
	topic   string
	ledgers []string

	read     []int64         // bytes of each ledger
	offsets  map[int32]int64 // next offset to read
	vehicles map[string]*vehicle
	waiting  map[string]struct{} // "VIN/seq": acknowledged, not in Kafka yet

	acked, records, duplicates int
	wrong                      []string
}

// vehicle is what Kafka holds of one: the highest sequence, and the msg-ids of the messages since the last audit
// and of those between it and the one before. A copy of an older message counts as out of order.
type vehicle struct {
	last       int64
	ids, older map[int64]string
}

func newAuditor(brokers []string, topic string, ledgers ...string) *auditor {
	return &auditor{
		brokers: brokers, topic: topic, ledgers: ledgers, read: make([]int64, len(ledgers)), offsets: map[int32]int64{},
		vehicles: map[string]*vehicle{}, waiting: map[string]struct{}{},
	}
}

func (a *auditor) String() string {
	return fmt.Sprintf("%d acknowledged, %d records, %d duplicates, %d not in Kafka, %d wrong",
		a.acked, a.records, a.duplicates, len(a.waiting), len(a.wrong))
}

// audit reads the ledgers and waits, at most limit, until Kafka has all their messages. Then it forgets everything
// before.
func (a *auditor) audit(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for i := range a.ledgers {
		if err := a.readLedger(i); err != nil {
			return err
		}
	}
	for {
		if err := a.readKafka(ctx); err != nil {
			return err
		}
		switch {
		case len(a.wrong) > 0:
			return fmt.Errorf("%v: %v", a, a.wrong[:min(5, len(a.wrong))])
		case len(a.waiting) == 0:
			return a.forget(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%v: acknowledged, but not in Kafka within %v: %v", a, limit, a.missing())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *auditor) missing() (some []string) {
	for name := range a.waiting {
		if some = append(some, name); len(some) == 5 {
			break
		}
	}
	return some
}

// readLedger reads the new complete lines of a ledger.
func (a *auditor) readLedger(i int) error {
	f, err := os.Open(a.ledgers[i])
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.NewSectionReader(f, a.read[i], 1<<40))
	if err != nil {
		return err
	}
	b = b[:strings.LastIndexByte(string(b), '\n')+1]
	a.read[i] += int64(len(b))
	for line := range strings.Lines(string(b)) {
		vin, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		seq, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %q is not VIN and sequence", a.ledgers[i], line)
		}
		a.acked++
		if v := a.vehicles[vin]; v == nil || (v.ids[seq] == "" && v.older[seq] == "") {
			a.waiting[name(vin, seq)] = struct{}{}
		}
	}
	return nil
}

func name(vin string, seq int64) string { return vin + "/" + strconv.FormatInt(seq, 10) }

// readKafka reads the topic up to its current end.
func (a *auditor) readKafka(ctx context.Context) error {
	return harness.EachRecordFrom(ctx, a.brokers, a.topic, a.offsets, func(r harness.Record) {
		a.take(&r)
		a.offsets[r.Partition] = r.Offset + 1
	})
}

func (a *auditor) take(r *harness.Record) {
	a.records++
	var payload struct {
		Seq *int64 `json:"seq"`
	}
	id := r.Headers["msg-id"]
	if err := json.Unmarshal(r.Value, &payload); err != nil || payload.Seq == nil || id == "" {
		a.wrong = append(a.wrong, fmt.Sprintf("%d@%d: no seq or no msg-id in %.200q", r.Partition, r.Offset, r.Value))
		return
	}
	vin, seq := r.Key, *payload.Seq
	delete(a.waiting, name(vin, seq))
	v := a.vehicles[vin]
	if v == nil {
		v = &vehicle{ids: map[int64]string{}}
		a.vehicles[vin] = v
	}
	before := v.ids[seq]
	if before == "" {
		before = v.older[seq]
	}
	switch {
	case before == id:
		a.duplicates++
	case before != "":
		a.wrong = append(a.wrong, fmt.Sprintf("%s is there as %s and as %s", name(vin, seq), before, id))
	case seq < v.last:
		a.wrong = append(a.wrong, fmt.Sprintf("%s after %d", name(vin, seq), v.last))
	default:
		v.ids[seq], v.last = id, seq
	}
}

// forget drops what has been compared and deletes records in Kafka: those of this topic that were read, and all of
// other topics.
func (a *auditor) forget(ctx context.Context) error {
	for _, v := range a.vehicles {
		v.older, v.ids = v.ids, map[int64]string{}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(a.brokers...))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(ctx)
	if err != nil {
		return err
	}
	done := kadm.Offsets{}
	ends.Each(func(o kadm.ListedOffset) {
		at := o.Offset
		if o.Topic == a.topic {
			at = a.offsets[o.Partition]
		}
		done.AddOffset(o.Topic, o.Partition, at, -1)
	})
	_, err = adm.DeleteRecords(ctx, done)
	return err
}

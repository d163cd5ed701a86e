package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// honestPrefix is the prefix of honest vehicles' VINs.
const honestPrefix = "LTESTGKD"

// consumer reads the honest vehicles' topic from its beginning.
type consumer struct {
	mu      sync.Mutex
	auditor []harness.Record // of honest vehicles
	last    map[string]int64 // highest seq by VIN
	taken   int
	delay   *latencies
}

func consume(t *testing.T, kafka *harness.Kafka, topic string) *consumer {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Direct()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(100*time.Millisecond),
		kgo.MetadataMaxAge(time.Second), kgo.FetchMaxWait(100*time.Millisecond))
	check.OK(t, err)
	k := &consumer{last: map[string]int64{}, delay: newLatencies()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(k.take)
		}
	}()
	t.Cleanup(func() { cancel(); <-done; cl.Close() })
	return k
}

func (k *consumer) take(r *kgo.Record) {
	if !strings.HasPrefix(string(r.Key), honestPrefix) {
		return
	}
	var p struct{ Seq, TS int64 }
	if err := json.Unmarshal(r.Value, &p); err != nil {
		return
	}
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken++
	k.delay.add(time.Since(time.Unix(0, p.TS)))
	k.last[string(r.Key)] = max(k.last[string(r.Key)], p.Seq)
	k.auditor = append(k.auditor, harness.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: r.Value, Headers: headers})
}

func (k *consumer) takeFigures() (n int, delay *latencies) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, delay = k.taken, k.delay
	k.taken, k.delay = 0, newLatencies()
	return n, delay
}

func (k *consumer) has(vin string, seq int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last[vin] >= seq
}

// audit compares the records with the acknowledgements.
func (k *consumer) audit(acked harness.Acked) error {
	k.mu.Lock()
	records := append([]harness.Record(nil), k.auditor...)
	k.mu.Unlock()
	a, err := harness.AuditTelemetry(acked, records)
	return errors.Join(err, a.Err())
}

// latencies is a histogram from 1 µs to 10 min. Its owner must lock it.
type latencies struct{ h *hdrhistogram.Histogram }

func newLatencies() *latencies {
	return &latencies{hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 2)}
}

func (l *latencies) add(d time.Duration) { _ = l.h.RecordValue(max(1, d.Microseconds())) }

func (l *latencies) at(percent float64) time.Duration {
	return (time.Duration(l.h.ValueAtQuantile(percent)) * time.Microsecond).Round(100 * time.Microsecond)
}

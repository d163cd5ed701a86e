package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// tail follows the journal for one consumer, in order, up to the durable mark. It counts the records that the journal
// has lost.
type tail struct {
	name    string // name of the journal's consumer
	journal Journal
	reader  *journal.Reader
	want    message.Flags // records to pass on at once; 0: all
	log     *slog.Logger
	metrics *TailMetrics
	done    atomic.Uint64 // every record up to here has been passed on; the reader is ahead of it within a batch
	since   atomic.Int64  // Unix ms; earliest arrival of the oldest record that is not passed on
}

// TailMetrics holds the metrics of one loop that follows the journal.
type TailMetrics struct {
	records  prometheus.Counter
	position prometheus.Gauge
	missing  prometheus.Counter
	lag, age prometheus.Gauge
}

// NewTailMetrics returns the metrics of the loop "fanout" or "command_intake", registered with reg, which may be nil.
func NewTailMetrics(reg prometheus.Registerer, loop string) *TailMetrics {
	to := metric.For(reg)
	return &TailMetrics{
		records:  to.Counter(loop+"_records_total", "Journal records that the loop "+loop+" has read. It skips batches that nobody needs."),
		position: to.Gauge(loop+"_position", "Journal sequence up to which the loop "+loop+" has processed everything."),
		missing:  to.Counter(loop+"_missing_total", "Records that the loop "+loop+" could not read because the journal no longer had them."),
		lag:      to.Gauge(loop+"_lag_messages", "Durable journal records that the loop "+loop+" has not processed."),
		age:      to.Gauge(loop+"_lag_seconds", "How long the oldest record has waited for the loop "+loop+"."),
	}
}

// open creates the reader at from. Records that the journal no longer has count as missing.
func (t *tail) open(from uint64) error {
	t.journal.Retain(t.name, from)
	r, err := t.journal.NewReader(from)
	if errors.Is(err, journal.ErrTrimmed) {
		first := t.journal.First()
		t.log.Error("journal records removed before they were read", "loop", t.name, "from", from, "first", first)
		t.metrics.missing.Add(float64(first - from))
		r, err = t.journal.NewReader(first)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	t.reader = r
	t.advance()
	t.since.Store(time.Now().UnixMilli())
	return nil
}

// advance records that everything up to the reader's position has been passed on.
func (t *tail) advance() uint64 {
	at := t.reader.Position()
	t.done.Store(at)
	t.metrics.position.Set(float64(at))
	return at
}

// each passes a batch on, record by record. It stops at the first error of fn.
func (t *tail) each(b *journal.Batch, fn func(rec *message.Record) error) error {
	if b.Missing > 0 {
		t.log.Error("journal records lost before they were read", "loop", t.name, "count", b.Missing, "before", b.First)
		t.metrics.missing.Add(float64(b.Missing))
	}
	for i := range b.Records {
		t.since.Store(b.Records[i].ReceivedAt)
		if err := fn(&b.Records[i]); err != nil {
			return err
		}
	}
	t.metrics.records.Add(float64(len(b.Records)))
	return nil
}

// await returns when there may be more to read: at once for wanted records, otherwise after idleInterval at the
// latest.
func (t *tail) await(ctx context.Context) error {
	if t.reader.Position() >= t.journal.Durable() {
		t.since.Store(time.Now().UnixMilli()) // nothing waits
	}
	wait, cancel := context.WithTimeout(ctx, idleInterval)
	defer cancel()
	if err := t.reader.Await(wait, t.want); err != nil && wait.Err() == nil {
		return err
	}
	return nil
}

// idleInterval is how often an idle loop records its position.
const idleInterval = 500 * time.Millisecond

// follow calls step until ctx ends, which is not an error, or the journal fails. step reports whether it found records.
func (t *tail) follow(ctx context.Context, step func(context.Context) (bool, error), settle func(context.Context)) error {
	tick := time.NewTicker(idleInterval)
	defer tick.Stop()
	for {
		ok, err := step(ctx)
		if err == nil && !ok {
			err = t.await(ctx)
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, journal.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", t.name, err)
		}
		select {
		case <-tick.C:
			settle(ctx)
			t.Lag()
		default:
		}
	}
}

// Lag returns how many durable records have not been passed on, and how long the oldest has waited. It also sets the
// gauges.
func (t *tail) Lag() (records uint64, age time.Duration) {
	if durable, done := t.journal.Durable(), t.done.Load(); durable > done {
		records, age = durable-done, max(0, time.Since(time.UnixMilli(t.since.Load())))
	}
	t.metrics.lag.Set(float64(records))
	t.metrics.age.Set(age.Seconds())
	return records, age
}

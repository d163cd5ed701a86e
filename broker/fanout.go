package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/message"

	"github.com/prometheus/client_golang/prometheus"
)

// fanoutIdle are the records that the fan-out loop reads while no subscription is in the index: batches of
// plain telemetry are passed over by their headers.
const fanoutIdle = message.FlagResult | message.FlagRetain | message.FlagOther

// settleInterval is how often the loop asks the command service to make durable what it was given. At most
// what came since is given to it again after a crash.
const settleInterval = 500 * time.Millisecond

// FanoutJournal is what the fan-out loop needs of the journal.
type FanoutJournal interface {
	NewReader(from uint64) (*journal.Reader, error)
	First() uint64
	Durable() uint64
	WaitDurable(ctx context.Context, seq uint64) error
	Retain(name string, seq uint64)
}

// FanoutSessions is what the fan-out loop needs of the session manager; see session.Manager.
type FanoutSessions interface {
	Fanout(rec *message.Record)
	Replay(rec *message.Record)
	Advance(seq uint64)
	Settle(seq uint64)
	Checkpoint(seq uint64) error
	ReplayFrom() uint64
	Wanted(read func(any bool))
}

// FanoutCommands takes what concerns downlink commands. Both methods are called in journal order and copy what
// they keep. After a crash the records since the last successful Sync are given again.
type FanoutCommands interface {
	// Result is given every PUBLISH on v1/{vin}/res/….
	Result(ctx context.Context, rec *message.Record) error
	// Command is given every PUBLISH on v1/{vin}/cmd/{id}/{name} that is in the journal: wills. Only a service may publish
	// there.
	Command(ctx context.Context, rec *message.Record) error
	// Sync returns when everything given before is durable.
	Sync(ctx context.Context) error
}

// FanoutOptions configure a Fanout. Journal and Sessions are required.
type FanoutOptions struct {
	Journal  FanoutJournal
	Sessions FanoutSessions
	Commands FanoutCommands // nil: nobody takes results and commands
	Log      *slog.Logger
	Metrics  *FanoutMetrics
}

// FanoutMetrics count what the fan-out loop does.
type FanoutMetrics struct {
	records  prometheus.Counter
	position prometheus.Gauge
	missing  prometheus.Counter
}

// NewFanoutMetrics makes the metrics and registers them with reg, which may be nil.
func NewFanoutMetrics(reg prometheus.Registerer) *FanoutMetrics {
	m := &FanoutMetrics{
		records:  prometheus.NewCounter(prometheus.CounterOpts{Name: "fanout_records_total", Help: "Journal records that the fan-out loop read; the others nobody wanted."}),
		position: prometheus.NewGauge(prometheus.GaugeOpts{Name: "fanout_position", Help: "Journal sequence up to which messages are fanned out."}),
		missing:  prometheus.NewCounter(prometheus.CounterOpts{Name: "fanout_missing_total", Help: "Journal records that could not be fanned out because the journal has lost them."}),
	}
	if reg != nil {
		reg.MustRegister(m.records, m.position, m.missing)
	}
	return m
}

// Fanout is the loop between journal and clients. It alone reads the journal for MQTT: every durable PUBLISH
// goes to the sessions that subscribe to it, results and commands to the command service. It never waits
// for a client; the command service may make it wait for room.
type Fanout struct {
	o      FanoutOptions
	reader *journal.Reader
	done   uint64 // every record up to here has been handed on; the reader is ahead of it within a batch

	given   bool // the command service was given something since the last Sync began
	syncing sync.WaitGroup
	synced  chan settled // holds one element while no Sync runs: what came of the last one
}

type settled struct {
	at  uint64
	err error
}

// NewFanout opens the loop's cursor where the sessions' state ends, and makes the journal keep what
// is behind. Records that the journal no longer has are counted as missing.
func NewFanout(o FanoutOptions) (*Fanout, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewFanoutMetrics(nil)
	}
	f := &Fanout{o: o, synced: make(chan settled, 1)}
	f.synced <- settled{}
	from := o.Sessions.ReplayFrom()
	o.Journal.Retain(fanoutName, from)
	r, err := o.Journal.NewReader(from)
	if errors.Is(err, journal.ErrTrimmed) {
		first := o.Journal.First()
		o.Log.Error("the journal no longer has records that were not fanned out", "from", from, "first", first)
		o.Metrics.missing.Add(float64(first - from))
		r, err = o.Journal.NewReader(first)
	}
	if err != nil {
		return nil, fmt.Errorf("fan-out: %w", err)
	}
	f.reader, f.done = r, r.Position()
	return f, nil
}

// fanoutName is the fan-out loop's name among the journal's consumers.
const fanoutName = "mqtt"

// Replay reads everything that is durable by now, restores from it the QoS 2 identifiers that clients use, and
// fans out what was not. It comes before the first connection and before Run.
func (f *Fanout) Replay(ctx context.Context) error {
	begun, n := time.Now(), 0
	for end := f.o.Journal.Durable(); f.reader.Position() < end; {
		b, ok, err := f.reader.TryNext(0)
		if err != nil {
			return fmt.Errorf("fan-out replay: %w", err)
		}
		if !ok {
			break
		}
		for i := range b.Records {
			f.o.Sessions.Replay(&b.Records[i])
		}
		if err := f.batch(ctx, b); err != nil {
			return err
		}
		n += len(b.Records)
	}
	f.o.Log.Info("fan-out replayed the journal", "records", n, "took", time.Since(begun))
	return nil
}

// Run fans out until ctx ends, which is no error, or the journal fails. It may be called once.
func (f *Fanout) Run(ctx context.Context) error {
	defer f.syncing.Wait()
	settle := time.NewTicker(settleInterval)
	defer settle.Stop()
	for {
		ok, err := f.step(ctx)
		if err == nil && !ok {
			err = f.await(ctx)
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, journal.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("fan-out: %w", err)
		}
		select {
		case <-settle.C:
			f.settle(ctx)
		default:
		}
	}
}

// step reads what is durable and hands it on. It reports whether there was anything.
func (f *Fanout) step(ctx context.Context) (bool, error) {
	var (
		b   *journal.Batch
		ok  bool
		err error
	)
	f.o.Sessions.Wanted(func(subscribed bool) {
		want := fanoutIdle
		if subscribed {
			want = 0
		}
		b, ok, err = f.reader.TryNext(want)
	})
	if err != nil {
		return false, err
	}
	if ok {
		return true, f.batch(ctx, b)
	}
	f.advance()
	return false, nil
}

// await returns when there may be more to read, and now and then without, so that the loop gets to settle.
func (f *Fanout) await(ctx context.Context) error {
	next := f.reader.Position() + 1
	if next <= f.o.Journal.Durable() {
		// Durable, but not to be read yet: the journal is between two segments, or has lost the record.
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, settleInterval)
	defer cancel()
	if err := f.o.Journal.WaitDurable(wait, next); err != nil && wait.Err() == nil {
		return err
	}
	return nil
}

// batch hands the records of a batch to whom they concern.
func (f *Fanout) batch(ctx context.Context, b *journal.Batch) error {
	if b.Missing > 0 {
		f.o.Log.Error("journal records lost before they were fanned out", "count", b.Missing, "before", b.First)
		f.o.Metrics.missing.Add(float64(b.Missing))
	}
	for i := range b.Records {
		if err := f.record(ctx, &b.Records[i]); err != nil {
			return err
		}
	}
	f.o.Metrics.records.Add(float64(len(b.Records)))
	f.advance()
	return nil
}

func (f *Fanout) record(ctx context.Context, rec *message.Record) error {
	if rec.Kind != message.KindPublish {
		return nil
	}
	if f.o.Commands != nil {
		vin, branch, rest := message.SplitTopic(rec.Topic)
		switch {
		case branch == "res" && rec.Client != "": // else an outcome on a response topic, by the gateway itself
			f.given = true
			if err := f.o.Commands.Result(ctx, rec); err != nil {
				return fmt.Errorf("result %d: %w", rec.Seq, err)
			}
		case branch == "cmd" && rec.Client != vin && strings.Count(rest, "/") == 1:
			f.given = true
			if err := f.o.Commands.Command(ctx, rec); err != nil {
				return fmt.Errorf("command %d: %w", rec.Seq, err)
			}
			return nil
		}
	}
	f.o.Sessions.Fanout(rec)
	return nil
}

// advance tells the sessions how far the loop is, and the journal what it need not keep.
func (f *Fanout) advance() {
	f.done = f.reader.Position()
	f.o.Sessions.Advance(f.done)
	f.o.Metrics.position.Set(float64(f.done))
	f.o.Journal.Retain(fanoutName, f.o.Sessions.ReplayFrom())
}

// settle has the command service make durable what it was given, aside, so that the loop does not wait for the
// disk. Until that has happened the records in question are read again after a crash.
func (f *Fanout) settle(ctx context.Context) {
	select {
	case last := <-f.synced:
		if last.err != nil {
			f.given = true
			f.o.Log.Error("command service not durable, trying again", "error", last.err)
		}
		f.o.Sessions.Settle(last.at)
	default:
		return // the last Sync still runs
	}
	at := f.done
	if !f.given || f.o.Commands == nil {
		f.synced <- settled{at: at}
		f.o.Sessions.Settle(at)
		return
	}
	f.given = false
	f.syncing.Go(func() {
		if err := f.o.Commands.Sync(ctx); err != nil {
			f.synced <- settled{err: err}
			return
		}
		f.synced <- settled{at: at}
	})
}

// Close makes the position durable, once Run has returned, and gives the cursor up.
func (f *Fanout) Close(ctx context.Context) error {
	var errs []error
	if f.o.Commands != nil {
		if err := f.o.Commands.Sync(ctx); err != nil {
			errs = append(errs, fmt.Errorf("fan-out: commands: %w", err))
		}
	}
	if len(errs) == 0 {
		if err := f.o.Sessions.Checkpoint(f.done); err != nil {
			errs = append(errs, fmt.Errorf("fan-out: %w", err))
		}
	}
	return errors.Join(append(errs, f.reader.Close())...)
}

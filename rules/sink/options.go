package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/message"
	"cellgate/broker/statefile"
	"cellgate/broker/wal"
	"cellgate/rules"
)

// ErrNoSink says that a rule set sends to a sink that the gateway does not have.
var ErrNoSink = errors.New("the rules need a sink that is not configured")

// Journal is what the dispatcher needs of a *journal.Journal. A test has one that looks on.
type Journal interface {
	NewReader(from uint64) (*journal.Reader, error)
	Epoch() uint64
	First() uint64
	Last() uint64
	Durable() uint64
	Appended() (last, messages uint64)
	Append(recs []message.Record, w journal.Waiter) (uint64, error)
	WaitDurable(ctx context.Context, seq uint64) error
	Retain(name string, seq uint64)
	Stat() journal.Stat
}

// Limits bound what is under way to one sink, in its own queues and in flight.
type Limits struct {
	Messages int   // 4,096 by default
	Bytes    int64 // 8 MiB by default
}

// Binding is a sink with its settings.
type Binding struct {
	Sink   Sink
	Limits Limits
	// WhenFull is Hold by default.
	WhenFull WhenFull
	// AgeOutBytes is how much of the journal an AgeOut sink may hold back before its oldest records are
	// passed over; a quarter of the journal's bound by default.
	AgeOutBytes int64
	// Watch is told which records have settled; may be nil.
	Watch Watcher
}

// Watcher follows which records a sink has settled: all up to the mark, but for those that are begun and not done. What waits
// in front of a record does not matter. Its methods neither block nor call the dispatcher.
type Watcher interface {
	// Reached tells the mark, which never falls.
	Reached(mark uint64)
	// Begun tells of a record before the mark reaches it, once or more often.
	Begun(seq uint64)
	Done(seq uint64)
}

// Options configure a Dispatcher.
type Options struct {
	Journal Journal
	// DB keeps the checkpoint; the dispatcher uses the bucket "dispatch" alone.
	DB *statefile.DB
	// Dir is where the decision logs are, one directory per sink.
	Dir string
	// OperatorDir is where the operators' state is.
	OperatorDir string
	// Cell is the cell's id, known to expressions and templates; Node goes into message ids.
	Cell, Node string
	// Sinks get what the rules send; one of them is the Kafka sink, which also takes the dead letters.
	Sinks []Binding
	// ErrorTopic is the Kafka topic of errors of rules that name none; rules.DefaultErrorTopic if empty.
	ErrorTopic string
	// Parked bounds what waits for destinations of a sink that take nothing.
	Parked ParkedLimits
	// State bounds the operators' state; its Evicted is the dispatcher's.
	State rules.StateOptions
	// CheckpointInterval is how much is done again after a crash; 1 s by default. When it is negative there are
	// only the checkpoints that Checkpoint and Stop write.
	CheckpointInterval time.Duration
	// SegmentBytes of a decision log; 8 MiB by default.
	SegmentBytes int64
	// OnFatal is called once when the dispatcher cannot go on: the journal failed, or an fsync.
	OnFatal func(error)
	Log     *slog.Logger
	Metrics *Metrics

	// lagAlarm is how old a pending record is when its sink is reported.
	lagAlarm time.Duration
	// compile replaces the rules package in tests.
	compile compiler
	// fs is where the decision logs are; tests have one that forgets.
	fs wal.FS
}

// filePerm: nobody else reads decisions and parked messages.
const filePerm = 0o600

func (o *Options) fill() error {
	if o.Journal == nil || o.DB == nil || o.Dir == "" || o.OperatorDir == "" || o.Node == "" {
		return errors.New("dispatch: journal, database, directories and node are required")
	}
	if o.CheckpointInterval == 0 {
		o.CheckpointInterval = time.Second
	}
	if o.lagAlarm == 0 {
		o.lagAlarm = 30 * time.Second
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 8 << 20
	}
	o.Parked.fill(o.Journal.Stat().MaxBytes)
	if o.OnFatal == nil {
		o.OnFatal = func(error) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	o.State.MaxVINs = cmp.Or(o.State.MaxVINs, rules.DefaultMaxVINs)
	o.State.Evicted = func(reason string, n int) { o.Metrics.evicted.WithLabelValues(reason).Add(float64(n)) }
	if o.fs == nil {
		o.fs = wal.OS{Perm: filePerm}
	}
	if o.compile == nil {
		o.compile = rulesCompiler(rules.Options{Cell: o.Cell, ErrorTopic: o.ErrorTopic, Stored: true})
	}
	names := map[string]bool{}
	kinds := map[rules.SinkKind]bool{}
	for i := range o.Sinks {
		b := &o.Sinks[i]
		name, kind := b.Sink.Name(), b.Sink.Kind()
		if names[name] || kinds[kind] {
			return fmt.Errorf("dispatch: two sinks named %s or of kind %s", name, kind)
		}
		names[name], kinds[kind] = true, true
		b.fill(o.Journal)
	}
	if !kinds[rules.SinkKafka] {
		return errors.New("dispatch: a Kafka sink is required, dead letters go there")
	}
	return nil
}

func (b *Binding) fill(j Journal) {
	if b.Limits.Messages == 0 {
		b.Limits.Messages = 4096
	}
	if b.Limits.Bytes == 0 {
		b.Limits.Bytes = 8 << 20
	}
	if b.WhenFull == "" {
		b.WhenFull = Hold
	}
	if b.AgeOutBytes == 0 {
		b.AgeOutBytes = j.Stat().MaxBytes / 4
	}
}

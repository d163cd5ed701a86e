package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
	"cellgate/broker/wal"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// ErrNoSink means that a rule set needs a sink that is not configured.
var ErrNoSink = errors.New("the rules need a sink that is not configured")

// Journal is the part of *journal.Journal that the dispatcher uses. Tests replace it.
type Journal interface {
	NewReader(from uint64) (*journal.Reader, error)
	Epoch() uint64
	First() uint64
	Last() uint64
	Durable() uint64
	Appended() (last, messages uint64)
	Append(recs []message.Record, w journal.Waiter) (uint64, error)
	WaitDurable(ctx context.Context, seq uint64) error
	WaitRoom(ctx context.Context) error
	Retain(name string, seq uint64)
	Missing(from uint64)
	Stat() journal.Stat
}

// Explain returns what each rule of a set does with a message, and why. known is the operators' state of its VIN.
type Explain func(set *lang.Set, rec *message.Record, known *state.State) []trace.Step

// Limits bound what is in flight to one sink, its own queues included.
type Limits struct {
	Messages int
	Bytes    int64
}

// Binding is a sink with its settings.
type Binding struct {
	Sink     Sink
	Limits   Limits
	WhenFull WhenFull
	// AgeOutBytes is how much of the journal an AgeOut sink may hold back before its oldest records are skipped.
	AgeOutBytes int64
	// Watch is notified of settled records.
	Watch Watcher `zero:"nobody does"`
}

// Watcher tracks which records a sink has settled: all up to the mark, except those that are begun and not done.
// Records before them do not matter. Its methods must neither block nor call the dispatcher.
type Watcher interface {
	// Reached sets the mark, which never decreases.
	Reached(mark uint64)
	// Begun reports a record before the mark reaches it, at least once.
	Begun(seq uint64)
	Done(seq uint64)
}

// Options configure a Dispatcher.
type Options struct {
	Journal Journal
	// DB stores the checkpoint; the dispatcher uses only the bucket "dispatch".
	DB *statefile.DB
	// Dir has the decision logs, one directory per sink.
	Dir string
	// OperatorDir has the operators' state.
	OperatorDir string
	// Rules are the options for compiling the rules in force.
	Rules lang.Options
	// Node is part of message ids.
	Node string
	// Sinks receive the rules' messages; one of them must be the Kafka sink, which also takes the dead letters.
	Sinks []Binding
	// Parked bounds the messages for parked destinations.
	Parked ParkedLimits
	// Workers is the maximum number of goroutines that evaluate messages.
	Workers int
	// State bounds the operators' state; its Evicted is the dispatcher's.
	State state.StateOptions
	// CheckpointInterval bounds what is repeated after a crash.
	CheckpointInterval time.Duration `zero:"there are only the checkpoints that Checkpoint and Stop write"`
	// Now returns the wall clock time. TickInterval is how often rules may send something without a message.
	Now          func() time.Time
	TickInterval time.Duration
	// SegmentBytes is the segment size of a decision log.
	SegmentBytes int64
	// OnFatal is called once if the dispatcher cannot continue: the journal or an fsync failed.
	OnFatal func(error)
	Log     *slog.Logger
	Metrics *Metrics
	// Trace receives the steps of messages while there is a tracer; Explain makes the steps of the rules for it.
	Trace   *trace.Traces `zero:"nobody does"`
	Explain Explain       `zero:"nobody does"`
	// LagAlarm is the age of a pending record from which its sink is reported as lagging.
	LagAlarm time.Duration
	// FS is the file system of the decision logs.
	FS wal.FS
}

// filePerm keeps decisions and parked messages from other users.
const filePerm = 0o600

// Files returns the operating system's file system, for Options.FS.
func Files() wal.FS { return wal.OS{Perm: filePerm} }

func (o *Options) check() error {
	o.State.Evicted = func(reason string, n int) { o.Metrics.evicted.WithLabelValues(reason).Add(float64(n)) }
	if err := complete.Check(*o); err != nil {
		return err
	}
	names := map[string]bool{}
	kinds := map[op.SinkKind]bool{}
	for i := range o.Sinks {
		b := &o.Sinks[i]
		if err := complete.Check(*b); err != nil {
			return err
		}
		name, kind := b.Sink.Name(), b.Sink.Kind()
		if names[name] || kinds[kind] {
			return fmt.Errorf("two sinks named %s or of kind %s", name, kind)
		}
		names[name], kinds[kind] = true, true
	}
	if !kinds[op.SinkKafka] {
		return errors.New("a Kafka sink is required, dead letters go there")
	}
	return nil
}

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
	WaitRoom(ctx context.Context) error
	Retain(name string, seq uint64)
	Stat() journal.Stat
}

// Explain tells what each rule of a set does with a message, and why. known is what the operators remember of its VIN.
type Explain func(set *lang.Set, rec *message.Record, known *state.State) []trace.Step

// Limits bound what is under way to one sink, in its own queues and in flight.
type Limits struct {
	Messages int
	Bytes    int64
}

// Binding is a sink with its settings.
type Binding struct {
	Sink     Sink
	Limits   Limits
	WhenFull WhenFull
	// AgeOutBytes is how much of the journal an AgeOut sink may hold back before its oldest records are
	// passed over.
	AgeOutBytes int64
	// Watch is told which records have settled.
	Watch Watcher `zero:"nobody does"`
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
	// Rules are what the rules in force are compiled with.
	Rules lang.Options
	// Node goes into message ids.
	Node string
	// Sinks get what the rules send; one of them is the Kafka sink, which also takes the dead letters.
	Sinks []Binding
	// Parked bounds what waits for destinations of a sink that take nothing.
	Parked ParkedLimits
	// Workers is on how many goroutines messages are evaluated when there are many.
	Workers int
	// State bounds the operators' state; its Evicted is the dispatcher's.
	State state.StateOptions
	// CheckpointInterval is how much is done again after a crash.
	CheckpointInterval time.Duration `zero:"there are only the checkpoints that Checkpoint and Stop write"`
	// Now is what the wall clock shows. TickInterval is how often rules are asked whether they send something although no message
	// comes.
	Now          func() time.Time
	TickInterval time.Duration
	// SegmentBytes of a decision log.
	SegmentBytes int64
	// OnFatal is called once when the dispatcher cannot go on: the journal failed, or an fsync.
	OnFatal func(error)
	Log     *slog.Logger
	Metrics *Metrics
	// Trace is told what happens to messages while somebody looks on; Explain makes the steps of the rules for it.
	Trace   *trace.Traces `zero:"nobody does"`
	Explain Explain       `zero:"nobody does"`
	// LagAlarm is how old a pending record is when its sink is reported.
	LagAlarm time.Duration
	// FS is where the decision logs are.
	FS wal.FS
}

// filePerm: nobody else reads decisions and parked messages.
const filePerm = 0o600

// Files is the file system of this machine, for FS.
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

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"cellgate/broker/session"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
)

// IntakeCommands receives the records that concern downlink commands (*command.Service, or a failing fake in tests).
// Both methods are called in journal order and copy what they keep. After a crash, the records since the last
// successful Sync are passed again.
type IntakeCommands interface {
	// Result receives every PUBLISH on v1/{vin}/res/….
	Result(ctx context.Context, rec *message.Record) error
	// Command receives every journaled PUBLISH on v1/{vin}/cmd/{id}/{name}. These are wills. Only services may publish
	// there.
	Command(ctx context.Context, rec *message.Record) error
	// Sync returns when all records passed before it are durable.
	Sync(ctx context.Context) error
}

// IntakeOptions configures an Intake.
type IntakeOptions struct {
	Journal  Journal
	Commands IntakeCommands
	Sessions *session.Manager // persists the position up to which the command service has everything
	Log      *slog.Logger
	Metrics  *TailMetrics
}

// Intake is the loop from the journal to the command service. It has its own cursor and skips batches of telemetry by
// their headers, so that commands and results do not wait for a lagging fan-out.
type Intake struct {
	tail
	o       IntakeOptions
	given   bool // the command service has received records since the last Sync began
	syncing sync.WaitGroup
	synced  chan persisted // holds the last Sync's result while no Sync runs
}

type persisted struct {
	at  uint64
	err error
}

// intakeName names the loop among the journal's consumers.
const intakeName = "commands"

// intakeWants selects the records that can concern commands.
const intakeWants = message.FlagResult | message.FlagOther

// NewIntake opens the loop's cursor at the end of the command service's state, and makes the journal retain the records
// after it. Records that the journal no longer has count as missing.
func NewIntake(o IntakeOptions) (*Intake, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	n := &Intake{tail: newTail(intakeName, o.Journal, o.Log, o.Metrics), o: o, synced: make(chan persisted, 1)}
	n.want = intakeWants
	n.synced <- persisted{}
	return n, n.open(o.Sessions.IntakePosition())
}

// Replay passes all durable records to the command service. Call it before Run.
func (n *Intake) Replay(ctx context.Context) error {
	for end := n.journal.Durable(); n.reader.Position() < end; {
		if ok, err := n.step(ctx); !ok || err != nil {
			return err
		}
	}
	return nil
}

// Run passes records to the command service until ctx ends, which is not an error, or the journal fails. Call it once.
func (n *Intake) Run(ctx context.Context) error {
	defer n.syncing.Wait()
	return n.follow(ctx, n.step, n.persist)
}

func (n *Intake) step(ctx context.Context) (bool, error) {
	b, ok, err := n.reader.TryNext(n.want)
	if err != nil {
		return false, err
	}
	if ok {
		err = n.each(b, func(rec *message.Record) error { return n.record(ctx, rec) })
	}
	if err == nil {
		n.advance()
	}
	return ok, err
}

func (n *Intake) record(ctx context.Context, rec *message.Record) error {
	if rec.Kind != message.KindPublish {
		return nil
	}
	if rec.IsCommand() {
		n.given = true
		if err := n.o.Commands.Command(ctx, rec); err != nil {
			return fmt.Errorf("command %d: %w", rec.Seq, err)
		}
		return nil
	}
	if _, branch, _ := message.SplitTopic(rec.Topic); branch == "res" && rec.Client != "" { // without a client: the gateway published it
		n.given = true
		if err := n.o.Commands.Result(ctx, rec); err != nil {
			return fmt.Errorf("result %d: %w", rec.Seq, err)
		}
	}
	return nil
}

// persist has the command service make its records durable, in a goroutine, so that the loop does not wait for the disk.
// Until then, a crash makes the loop read those records again.
func (n *Intake) persist(ctx context.Context) {
	select {
	case last := <-n.synced:
		if last.err != nil {
			n.given = true
			n.log.Error("commands not written, trying again", "err", last.err)
		}
		n.reached(last.at)
	default:
		return // the last Sync still runs
	}
	at := n.done.Load()
	if !n.given {
		n.synced <- persisted{at: at}
		n.reached(at)
		return
	}
	n.given = false
	n.syncing.Go(func() {
		if err := n.o.Commands.Sync(ctx); err != nil {
			n.synced <- persisted{err: err}
			return
		}
		n.synced <- persisted{at: at}
	})
}

// reached records the command service's position, and tells the journal what to retain for it.
func (n *Intake) reached(at uint64) {
	n.o.Sessions.StoreIntakePosition(at)
	n.journal.Retain(intakeName, n.o.Sessions.IntakePosition())
}

// Close records the position and closes the cursor. Call it after Run has returned. The sessions' next commit makes the
// position durable.
func (n *Intake) Close(ctx context.Context) error {
	err := n.o.Commands.Sync(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %w", intakeName, err)
	} else {
		n.o.Sessions.StoreIntakePosition(n.done.Load())
	}
	return errors.Join(err, n.reader.Close())
}

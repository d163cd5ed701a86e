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

// IntakeCommands takes what concerns downlink commands (*command.Service; tests have one whose disk fails). Both methods
// are called in journal order and copy what they keep. After a crash the records since the last successful Sync are given
// again.
type IntakeCommands interface {
	// Result is given every PUBLISH on v1/{vin}/res/….
	Result(ctx context.Context, rec *message.Record) error
	// Command is given every PUBLISH on v1/{vin}/cmd/{id}/{name} that is in the journal: wills. Only a service may publish
	// there.
	Command(ctx context.Context, rec *message.Record) error
	// Sync returns when everything given before is durable.
	Sync(ctx context.Context) error
}

// IntakeOptions configure an Intake.
type IntakeOptions struct {
	Journal  Journal
	Commands IntakeCommands
	Sessions *session.Manager // keep, over restarts, up to where the command service has everything
	Log      *slog.Logger
	Metrics  *TailMetrics
}

// Intake is the loop between journal and command service. It reads the journal on its own, batches of telemetry by
// their headers alone: however far the fan-out to subscribers lags, commands and their results do not wait for it.
type Intake struct {
	tail
	o       IntakeOptions
	given   bool // the command service was given something since the last Sync began
	syncing sync.WaitGroup
	synced  chan settled // holds one element while no Sync runs: what came of the last one
}

type settled struct {
	at  uint64
	err error
}

// intakeName is the loop's name among the journal's consumers.
const intakeName = "commands"

// intakeWants are the records that can concern commands.
const intakeWants = message.FlagResult | message.FlagOther

// NewIntake opens the loop's cursor where the command service's state ends, and makes the journal keep what
// follows. Records that the journal no longer has are counted as missing.
func NewIntake(o IntakeOptions) (*Intake, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	n := &Intake{tail: newTail(intakeName, o.Journal, o.Log, o.Metrics), o: o, synced: make(chan settled, 1)}
	n.want = intakeWants
	n.synced <- settled{}
	return n, n.open(o.Sessions.SettledFrom())
}

// Replay hands on everything that is durable by now. It comes before Run.
func (n *Intake) Replay(ctx context.Context) error {
	for end := n.journal.Durable(); n.reader.Position() < end; {
		if ok, err := n.step(ctx); !ok || err != nil {
			return err
		}
	}
	return nil
}

// Run hands on until ctx ends, which is no error, or the journal fails. It may be called once.
func (n *Intake) Run(ctx context.Context) error {
	defer n.syncing.Wait()
	return n.follow(ctx, n.step, n.settle)
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
	if _, branch, _ := message.SplitTopic(rec.Topic); branch == "res" && rec.Client != "" { // else an outcome on a response topic, by the gateway itself
		n.given = true
		if err := n.o.Commands.Result(ctx, rec); err != nil {
			return fmt.Errorf("result %d: %w", rec.Seq, err)
		}
	}
	return nil
}

// settle has the command service make durable what it was given, aside, so that the loop does not wait for the
// disk. Until that has happened the records in question are read again after a crash.
func (n *Intake) settle(ctx context.Context) {
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
		n.synced <- settled{at: at}
		n.reached(at)
		return
	}
	n.given = false
	n.syncing.Go(func() {
		if err := n.o.Commands.Sync(ctx); err != nil {
			n.synced <- settled{err: err}
			return
		}
		n.synced <- settled{at: at}
	})
}

// reached notes how far the command service is, and tells the journal what it need not keep for it.
func (n *Intake) reached(at uint64) {
	n.o.Sessions.Settle(at)
	n.journal.Retain(intakeName, n.o.Sessions.SettledFrom())
}

// Close notes the position, once Run has returned, and gives the cursor up. The sessions' next commit makes the
// position durable.
func (n *Intake) Close(ctx context.Context) error {
	err := n.o.Commands.Sync(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %w", intakeName, err)
	} else {
		n.o.Sessions.Settle(n.done.Load())
	}
	return errors.Join(err, n.reader.Close())
}

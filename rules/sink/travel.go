package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/state"
)

// travel is what the dispatcher knows of vehicles that come from other gateways and go to them.
type travel struct {
	remembers atomic.Bool // the rules in force have operators

	mu      sync.Mutex
	waiting map[string]*export // by VIN
}

// export waits for the evaluator to reach the record that says that a vehicle has gone.
type export struct {
	behind uint64 // the journal's end before the record
	done   chan []byte
}

// Errors of Export and Import.
var (
	ErrExporting  = errors.New("what the rules remember of the vehicle is being exported already")
	ErrTooMuch    = errors.New("it is larger than what rules may remember of a vehicle")
	errNotReached = errors.New("the rules have not come to the vehicle's last message in time")
)

// Remembers reports whether the rules in force have operators, and so may remember something of a vehicle.
func (d *Dispatcher) Remembers() bool { return d.travel.remembers.Load() }

// Export forgets what the operators remember of a vehicle that another gateway has, and returns it as Import takes it, nil when that is
// nothing. The vehicle's messages are in the journal, and none comes before Export returns. Behind them a record says that it has gone, so
// that every replay forgets it there; the evaluator answers when it comes to that. After an error it is forgotten all the same, unless the
// record could not be appended.
func (d *Dispatcher) Export(ctx context.Context, vin string) ([]byte, error) {
	t := &d.travel
	e := &export{behind: d.o.Journal.Last(), done: make(chan []byte, 1)}
	t.mu.Lock()
	if t.waiting[vin] != nil {
		t.mu.Unlock()
		return nil, ErrExporting
	}
	t.waiting[vin] = e
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.waiting, vin)
		t.mu.Unlock()
	}()
	if err := d.Forget(vin); err != nil {
		return nil, err
	}
	select {
	case data := <-e.done:
		return data, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNotReached, ctx.Err())
	}
}

// Forget has the operators forget a vehicle that another gateway has, from here on in the journal.
func (d *Dispatcher) Forget(vin string) error { return d.append(message.OperatorState(vin, nil)) }

// Import has the operators go on with what Export of another gateway has returned, from here on in the journal. Of an operator that remembers
// something of the vehicle here too the later counts.
func (d *Dispatcher) Import(vin string, data []byte) error {
	if len(data) > d.o.State.MaxVINBytes {
		return fmt.Errorf("%w: %d bytes", ErrTooMuch, len(data))
	}
	if err := state.Valid(data); err != nil {
		return fmt.Errorf("vin %s: %w", vin, err)
	}
	return d.append(message.OperatorState(vin, data))
}

func (d *Dispatcher) append(rec message.Record) error {
	if _, err := d.o.Journal.Append([]message.Record{rec}, nil); err != nil {
		return fmt.Errorf("what rules remember of %s: %w", rec.Client, err)
	}
	return nil
}

// operatorState evaluates a KindOperatorState.
func (d *Dispatcher) operatorState(rec *message.Record) {
	d.state.Advance(rec.ReceivedAt)
	if len(rec.Payload) == 0 {
		d.answerExport(rec)
	}
	if _, err := d.state.Apply(rec); err != nil {
		d.o.Log.Error("what another gateway's rules remember of a vehicle cannot be read", "vin", rec.Client, "seq", rec.Seq, "err", err)
	}
}

func (d *Dispatcher) answerExport(rec *message.Record) {
	t := &d.travel
	t.mu.Lock()
	e := t.waiting[rec.Client]
	t.mu.Unlock()
	if e == nil || rec.Seq <= e.behind {
		return
	}
	select {
	case e.done <- d.state.Current(rec.Client):
	default: // answered
	}
}

// CaughtUp returns nil when everything in the journal is evaluated.
func (d *Dispatcher) CaughtUp(ctx context.Context) error {
	for d.ticker.evaluated.Load() < d.o.Journal.Last() {
		if sleep(ctx, 2*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errNotReached, ctx.Err())
		}
	}
	return nil
}

// Remembered gives fn what the operators remember of each vehicle, as Import takes it, those that were heard of last first, until fn returns
// false. Nothing is evaluated meanwhile.
func (d *Dispatcher) Remembered(fn func(vin string, data []byte) bool) {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	d.state.Latest(func(vin string) bool { return fn(vin, d.state.Current(vin)) })
}

// VINs are those of which the operators remember something.
func (d *Dispatcher) VINs() []string {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	all := make([]string, 0, d.state.VINs())
	d.state.Latest(func(vin string) bool {
		all = append(all, vin)
		return true
	})
	return all
}

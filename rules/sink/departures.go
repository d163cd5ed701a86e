package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/state"
)

// departures tracks vehicles that come from and go to other gateways.
type departures struct {
	remembers atomic.Bool // the rules in force have operators

	mu      sync.Mutex
	waiting map[string]*export // by VIN
}

// export waits until the evaluator reaches the record of a vehicle's departure.
type export struct {
	last uint64 // the journal's end before the record
	done chan []byte
}

// Errors of Export and Import.
var (
	errExporting  = errors.New("the vehicle's operator state is being exported already")
	errTooMuch    = errors.New("it is larger than the bound of a vehicle's operator state")
	errNotReached = errors.New("the vehicle's last message was not evaluated in time")
)

// Remembers reports whether the rules in force have operators, and so may have state of a vehicle.
func (d *Dispatcher) Remembers() bool { return d.departures.remembers.Load() }

// Export forgets the operators' state of a vehicle that another gateway has, and returns it for Import, nil if there is
// none. The vehicle's messages must be in the journal, and none may follow before Export returns. Export appends a
// record of the departure after them, so that every replay forgets the state there, and the evaluator answers when it
// reaches it. After an error the state is forgotten anyway, unless the record could not be appended.
func (d *Dispatcher) Export(ctx context.Context, vin string) ([]byte, error) {
	t := &d.departures
	e := &export{last: d.o.Journal.Last(), done: make(chan []byte, 1)}
	t.mu.Lock()
	if t.waiting[vin] != nil {
		t.mu.Unlock()
		return nil, errExporting
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

// Forget makes the operators forget a vehicle that another gateway has, from here on in the journal.
func (d *Dispatcher) Forget(vin string) error { return d.append(message.OperatorState(vin, nil)) }

// Import makes the operators continue with the result of another gateway's Export, from here on in the journal. If an
// operator has state of the vehicle here too, the later one counts.
func (d *Dispatcher) Import(vin string, data []byte) error {
	if len(data) > d.o.State.MaxVINBytes {
		return fmt.Errorf("%w: %d bytes", errTooMuch, len(data))
	}
	if err := state.Valid(data); err != nil {
		return fmt.Errorf("vin %s: %w", vin, err)
	}
	return d.append(message.OperatorState(vin, data))
}

func (d *Dispatcher) append(rec message.Record) error {
	if _, err := d.o.Journal.Append([]message.Record{rec}, nil); err != nil {
		return fmt.Errorf("operators' state of %s: %w", rec.Client, err)
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
		d.o.Log.Error("operators' state of a vehicle from another gateway cannot be read", "vin", rec.Client, "seq", rec.Seq, "err", err)
	}
}

func (d *Dispatcher) answerExport(rec *message.Record) {
	t := &d.departures
	t.mu.Lock()
	e := t.waiting[rec.Client]
	t.mu.Unlock()
	if e == nil || rec.Seq <= e.last {
		return
	}
	select {
	case e.done <- d.state.Current(rec.Client):
	default: // answered
	}
}

// CaughtUp waits until everything in the journal is evaluated.
func (d *Dispatcher) CaughtUp(ctx context.Context) error {
	for d.ticker.evaluated.Load() < d.o.Journal.Last() {
		if remote.Pause(ctx, 2*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errNotReached, ctx.Err())
		}
	}
	return nil
}

// Remembered calls fn with the operators' state of each vehicle in the form for Import, most recently heard first,
// until fn returns false. Nothing is evaluated meanwhile.
func (d *Dispatcher) Remembered(fn func(vin string, data []byte) bool) {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	d.state.Latest(func(vin string) bool { return fn(vin, d.state.Current(vin)) })
}

// VINs returns the vehicles with operator state.
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

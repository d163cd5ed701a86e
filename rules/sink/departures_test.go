package sink_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// movingVehicles are gateways with the same time between which vehicles move.
type movingVehicles struct {
	t     *testing.T
	gw    []*timeRig
	at    map[string]int // by VIN: the gateway that has it
	moves int
}

func newMovingVehicles(t *testing.T, n int) *movingVehicles {
	t.Helper()
	r := &movingVehicles{t: t, at: map[string]int{}}
	for range n {
		r.gw = append(r.gw, newTimeRig(t, timeRules, nil))
	}
	return r
}

// move moves a vehicle to a gateway, as its connection does.
func (r *movingVehicles) move(vin string, to int) {
	r.t.Helper()
	from := r.at[vin]
	if r.at[vin] = to; from == to {
		return
	}
	data, err := r.gw[from].Dispatcher.Export(r.t.Context(), vin)
	check.OK(r.t, err)
	if data != nil {
		r.moves++
		check.OK(r.t, r.gw[to].Dispatcher.Import(vin, data))
	}
}

// drive publishes the same messages for any number of gateways, and occasionally moves vehicles between them.
func (r *movingVehicles) drive(during func(i int)) {
	r.t.Helper()
	rnd, way := rand.New(rand.NewPCG(3, 5)), rand.New(rand.NewPCG(8, 8)) //nolint:gosec // a test's choices
	for i := range 200 {
		pause := time.Duration(rnd.IntN(1500)) * time.Millisecond
		if rnd.IntN(40) == 0 {
			pause += time.Duration(rnd.IntN(20)) * time.Second
		}
		for _, one := range r.gw {
			one.machine.Pass(pause)
		}
		rec := sinktest.Telemetry(i)
		measured := r.gw[0].machine.Wall().UnixMilli() - int64(rnd.IntN(4)/3)*8000
		rec.Payload = fmt.Appendf(nil, `{"t":%d,"list":[{"x":1},{"x":%d},{"x":%d.50}],%s`, measured, i%4, i%3, rec.Payload[1:])
		during(i)
		vin := rec.VIN()
		if way.IntN(3) == 0 {
			r.settle()
			r.move(vin, way.IntN(len(r.gw)))
		}
		r.gw[r.at[vin]].Append(rec)
	}
	for _, one := range r.gw {
		one.machine.Pass(time.Minute)
	}
	r.settle()
}

func (r *movingVehicles) settle() {
	for _, one := range r.gw {
		one.Settled()
		one.caughtUp()
	}
}

func (r *movingVehicles) outputs() (out []string) {
	for _, one := range r.gw {
		out = append(out, one.outputs(r.t)...)
	}
	slices.Sort(out)
	return out
}

// TestStateMovesWithVehicles checks that with vehicles that move between gateways, rules send what one gateway with all
// vehicles sends, and that a replay and a backtest of each gateway's journal give the same.
func TestStateMovesWithVehicles(t *testing.T) {
	t.Parallel()
	one, three := newMovingVehicles(t, 1), newMovingVehicles(t, 3)
	one.drive(func(int) {})
	three.drive(func(int) {})
	got, want := three.outputs(), one.outputs()
	if len(want) < 100 || three.moves < 20 || !slices.Equal(got, want) {
		t.Fatalf("%d moves, %d messages, want %d\nmore:\n%s\nfewer:\n%s", three.moves, len(got), len(want),
			strings.Join(difference(got, want), "\n"), strings.Join(difference(want, got), "\n"))
	}
	three.replayed()
}

// replayed compares what each gateway has sent with a replay of its journal.
func (r *movingVehicles) replayed() {
	r.t.Helper()
	for i, one := range r.gw {
		if got, want := one.outputs(r.t), one.replay(r.t); !slices.Equal(got, want) {
			r.t.Errorf("gateway %d: %d messages, a replay has %d\nmore:\n%s\nfewer:\n%s", i, len(got), len(want),
				strings.Join(difference(got, want), "\n"), strings.Join(difference(want, got), "\n"))
		}
		one.Balanced()
		one.Stop()
	}
}

// TestMovesAreReplayed checks that gateways killed before or after a vehicle's arrival or departure decide the same
// again.
func TestMovesAreReplayed(t *testing.T) {
	t.Parallel()
	r, rnd := newMovingVehicles(t, 2), rand.New(rand.NewPCG(9, 9)) //nolint:gosec // a test's choices
	r.drive(func(int) {
		if one := r.gw[rnd.IntN(2)]; rnd.IntN(20) == 0 {
			one.Kill()
			one.Open()
		}
	})
	if r.moves < 10 {
		t.Errorf("%d moves", r.moves)
	}
	r.replayed()
}

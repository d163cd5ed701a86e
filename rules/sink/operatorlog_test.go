package sink_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal/waltest"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// changed lets a message of a VIN pass if n has changed.
const changed = `rules: [{id: changed, from: ["v1/+/up/#"], on_change: payload.n, to: [{kafka: {topic: t}}]}]`

// stateRig is a rig whose only rule stores state of every VIN.
type stateRig struct {
	*sinktest.Rig
	reg *prometheus.Registry
}

func newStateRig(t testing.TB, change func(*sink.Options)) *stateRig {
	t.Helper()
	r := &stateRig{}
	r.Rig = sinktest.New(t, sinktest.Setup{
		Rules: changed,
		Sinks: func() []sink.Binding { return discards(op.SinkKafka) },
		Change: func(o *sink.Options) {
			r.reg = prometheus.NewRegistry()
			o.CheckpointInterval, o.Metrics = 0, sink.NewMetrics(r.reg)
			if change != nil {
				change(o)
			}
		},
	})
	return r
}

// send appends a message for each of the VINs first to first+vins-1 and waits until they are evaluated. It returns the
// number that passed.
func (r *stateRig) send(first, vins, n int) uint64 {
	before := r.Ledger("kafka").Delivered
	recs := make([]message.Record, 0, 500)
	for i := first; i < first+vins; i++ {
		recs = append(recs, message.Record{
			Kind: message.KindPublish, QoS: 1, PacketID: 1, Topic: "v1/" + scattered(i) + "/up/t", Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		})
		if len(recs) == cap(recs) || i == first+vins-1 {
			r.Append(recs...)
			recs = recs[:0]
		}
	}
	r.Settled()
	return r.Ledger("kafka").Delivered - before
}

// scattered returns VINs without common prefixes between neighbours.
func scattered(i int) string { return fmt.Sprintf("L%016X", uint64(i+1)*0x9E3779B97F4A7C15) } //nolint:gosec // positive

func (r *stateRig) checkpoint(t testing.TB) {
	t.Helper()
	check.OK(t, r.Dispatcher.Checkpoint())
}

// TestCheckpointsLeaveTheDatabaseToOthers checks that what a checkpoint writes to state.db, which has one writer, does
// not grow with the number of vehicles.
func TestCheckpointsLeaveTheDatabaseToOthers(t *testing.T) {
	t.Parallel()
	r := newStateRig(t, nil)
	pages := func(first, n int) int64 {
		r.send(first, n, 0)
		before := r.Pages()
		r.checkpoint(t)
		return r.Pages() - before
	}
	few := pages(0, 10)
	if many := pages(10, 10_000); many > few+10 {
		t.Fatalf("a checkpoint of 10,000 vehicles wrote %d pages of state.db, one of 10 wrote %d", many, few)
	}
	if n := check.Series(t, r.reg)["rule_state_vins"]; n != 10_010 {
		t.Errorf("%v VINs in the metric", n)
	}
}

// TestOperatorLogStaysSmall sends messages of the same vehicles over many checkpoints, kills and restarts: the log does
// not grow, and no state is lost.
func TestOperatorLogStaysSmall(t *testing.T) {
	t.Parallel()
	const vins, each, segment = 400, 70, 4 << 10
	r := newStateRig(t, func(o *sink.Options) { o.SegmentBytes, o.State.MaxVINs = segment, 100_000 })
	for n := range 150 {
		if passed := r.send(0, vins, n); passed != vins {
			t.Fatalf("round %d: %d of %d passed", n, passed, vins)
		}
		r.checkpoint(t)
		if size := check.Series(t, r.reg)["rule_state_log_bytes"]; size > 5*vins*each+3*segment {
			t.Fatalf("round %d: the log of %d VINs has %v bytes", n, vins, size)
		}
		if n%10 == 9 {
			r.Kill()
			r.Open()
		}
		if passed := r.send(0, vins, n); passed != 0 {
			t.Fatalf("round %d: %d of %d passed again", n, passed, vins)
		}
	}
	if n := check.Series(t, r.reg)["rule_state_lost_total"]; n != 0 {
		t.Errorf("lost %v times", n)
	}
}

// TestDamagedOperatorState damages the state of vehicles: the gateway starts, reports it, and continues with the rest.
func TestDamagedOperatorState(t *testing.T) {
	t.Parallel()
	last := func(dir string) string {
		logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil || len(logs) == 0 {
			t.Fatal(logs, err)
		}
		return slices.Max(logs)
	}
	for name, damage := range map[string]func(dir string) error{
		"folder gone":  os.RemoveAll,
		"segment gone": func(dir string) error { return os.Remove(last(dir)) },
		"cut short":    func(dir string) error { return os.Truncate(last(dir), 60) },
		"a bit": func(dir string) error {
			data, err := os.ReadFile(last(dir))
			data[len(data)-10] ^= 4
			return errors.Join(err, os.WriteFile(last(dir), data, 0o600)) //nolint:gosec // a test's
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newStateRig(t, nil)
			r.send(0, 100, 0)
			r.checkpoint(t)
			r.Kill()
			check.OK(t, damage(filepath.Join(r.Dir(), "operators")))
			r.Open()
			if n := check.Series(t, r.reg)["rule_state_lost_total"]; n != 1 {
				t.Errorf("counted %v times", n)
			}
			if n := r.send(0, 100, 0); n != 100 {
				t.Errorf("%d of 100 passed", n)
			}
			r.checkpoint(t)
			r.Kill()
			r.Open()
			if n := r.send(0, 100, 0); n != 0 || check.Series(t, r.reg)["rule_state_lost_total"] != 0 {
				t.Errorf("%d passed again after the next start", n)
			}
		})
	}
}

// TestAFailedCheckpointIsRepeated checks that operator state that a checkpoint took and could not write comes with the
// next one, followed by later changes.
func TestAFailedCheckpointIsRepeated(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	disk := waltest.New()
	disk.Before = func(o waltest.Op, _ string) error {
		if o == waltest.Write && full.Load() {
			return syscall.ENOSPC
		}
		return nil
	}
	r := newStateRig(t, func(o *sink.Options) {
		o.Dir, o.OperatorDir = "/decisions", "/operators"
		o.FS = disk
	})
	r.send(0, 50, 0)
	r.checkpoint(t)
	full.Store(true)
	for i := range 3 {
		r.send(50+10*i, 10, 0)
		if err := r.Dispatcher.Checkpoint(); err == nil {
			t.Fatal("no error on a full disk")
		}
	}
	full.Store(false)
	r.checkpoint(t)
	r.Kill()
	r.Open()
	if n := r.send(0, 100, 0); n != 20 {
		t.Errorf("%d of 20 new vehicles passed", n)
	}
}

// TestStateIsTakenBitByBit changes so many vehicles that a checkpoint takes them in steps while they continue to
// change: after a kill everything is as at the checkpoint, or evaluated again.
func TestStateIsTakenBitByBit(t *testing.T) {
	t.Parallel()
	const vins = 5_000
	r := newStateRig(t, nil)
	r.send(0, vins, 0)
	done := make(chan error)
	go func() {
		var err error
		for range 5 {
			err = errors.Join(err, r.Dispatcher.Checkpoint())
		}
		done <- err
	}()
	for n := range 4 {
		r.send(n*500, 2_000, n+1)
	}
	check.OK(t, <-done)
	for range 2 {
		r.Kill()
		r.Open()
		r.Settled()
		for n := range 4 { // unchanged values do not pass again
			last := n*500 + 2_000
			if n < 3 {
				last = (n + 1) * 500
			}
			if passed := r.send(n*500, last-n*500, n+1); passed != 0 {
				t.Fatalf("%d of the vehicles from %d on passed again", passed, n*500)
			}
		}
		if passed := r.send(3_500, vins-3_500, 0); passed != 0 {
			t.Fatalf("%d passed again that changed once", passed)
		}
		r.checkpoint(t)
	}
}

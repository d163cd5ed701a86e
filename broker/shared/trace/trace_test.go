package trace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// mark is a fake durable mark.
type mark struct {
	mu    sync.Mutex
	at    uint64
	moved chan struct{}
}

func newMark() *mark { return &mark{moved: make(chan struct{})} }

func (m *mark) set(at uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = at
	close(m.moved)
	m.moved = make(chan struct{})
}

func (m *mark) durable() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *mark) wait(ctx context.Context, seq uint64) error {
	for {
		m.mu.Lock()
		at, moved := m.at, m.moved
		m.mu.Unlock()
		if at >= seq {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func traces(b Bounds) (*Traces, *mark) {
	m := newMark()
	return New(Options{Max: 2, WaitDurable: m.wait, Durable: m.durable, Bounds: b}), m
}

var ample = Bounds{PerSecond: 1e6, Steps: 1000, Bytes: 1 << 20, Messages: 100}

func record(seq uint64, vin string, qos byte) message.Record {
	return message.Record{
		Kind: message.KindPublish, Seq: seq, Client: vin, Topic: "v1/" + vin + "/up/telemetry", QoS: qos, Payload: []byte("{}"),
	}
}

func evaluation(rec message.Record, messages int) *Evaluation {
	return &Evaluation{Record: &rec, Rules: []string{"a", "b"}, Messages: messages, Explain: func() []Step {
		return []Step{{Rule: "a", Outcome: Matched}, {Rule: "b", Outcome: Stopped, Stage: "when", Reason: "the condition is false"}}
	}}
}

func begin(t *testing.T, ts *Traces, f Filter) *Tracer {
	t.Helper()
	n, err := ts.Begin(f, t.Name())
	check.OK(t, err)
	t.Cleanup(n.End)
	return n
}

// await collects steps until there are n.
func await(t *testing.T, tr *Tracer, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	var got []string
	for len(got) < n {
		steps := tr.Next(ctx)
		if steps == nil {
			t.Fatalf("%d steps of %d: %q", len(got), n, got)
		}
		for _, s := range steps {
			text := fmt.Sprintf("%d %s", s.Seq, s.Step)
			for _, more := range []string{s.Rule, s.Outcome, s.Sink, s.Reason} {
				if more != "" {
					text += " " + more
				}
			}
			if s.Count > 0 {
				text += fmt.Sprintf(" %d", s.Count)
			}
			got = append(got, text)
		}
	}
	return got
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestStepsOfAMessage(t *testing.T) {
	t.Parallel()
	ts, mark := traces(ample)
	if ts.On() {
		t.Fatal("on although nobody looks on")
	}
	tr := begin(t, ts, Filter{VIN: "A"})
	ts.Received([]message.Record{record(1, "A", 1), record(2, "B", 1)}, time.Now())
	mark.set(2)
	same(t, await(t, tr, 2), "1 received", "1 journaled")
	ts.Acknowledged(1, 0)
	ts.Acknowledged(2, 0)
	ts.Evaluated(evaluation(record(1, "A", 1), 2))
	ts.Evaluated(evaluation(record(2, "B", 1), 2))
	ts.Settled(1, 0, 1, "kafka", Parked, "gone")
	ts.Settled(1, 0, 0, "redis", Delivered, "")
	ts.Settled(2, 0, 0, "redis", Delivered, "")
	ts.Settled(1, 0, 1, "kafka", Delivered, "")
	ts.Refused(&message.Record{Topic: "v1/A/up/x"}, 0x87, "publish_not_authorized")
	same(t, await(t, tr, 7), "1 acknowledged", "1 rule a matched", "1 rule b stopped the condition is false", "1 target a parked kafka gone",
		"1 target a delivered redis", "1 target a delivered kafka", "0 refused publish_not_authorized")
	if len(tr.open) != 0 {
		t.Errorf("%d messages are followed that have come to their end", len(tr.open))
	}
}

// The rules may have a record before its connection reports it, and an acknowledgement may precede the mark.
func TestStepsInAnyOrder(t *testing.T) {
	t.Parallel()
	ts, mark := traces(ample)
	tr := begin(t, ts, Filter{Topic: "v1/+/up/#"})
	ts.Evaluated(evaluation(record(1, "A", 0), 0))
	ts.Received([]message.Record{record(1, "A", 0)}, time.Now())
	ts.Evaluated(evaluation(record(2, "A", 1), 0))
	ts.Received([]message.Record{record(2, "A", 1)}, time.Now())
	ts.Acknowledged(2, 0)
	mark.mu.Lock()
	mark.at = 3 // without waking a waiter
	mark.mu.Unlock()
	ts.Received([]message.Record{record(3, "A", 1)}, time.Now())
	ts.Acknowledged(3, 0)
	got := await(t, tr, 12)
	same(t, got, "1 journaled", "1 rule a matched", "1 rule b stopped the condition is false", "1 received",
		"2 journaled", "2 rule a matched", "2 rule b stopped the condition is false", "2 received", "2 acknowledged",
		"3 received", "3 journaled", "3 acknowledged")
	if len(tr.open) != 1 { // 3: the rules have not seen it
		t.Errorf("%d messages are followed", len(tr.open))
	}
}

func TestStepsOfOneRule(t *testing.T) {
	t.Parallel()
	ts, _ := traces(ample)
	tr := begin(t, ts, Filter{Rule: "b", From: func() []string { return []string{"v1/+/up/telemetry"} }})
	ts.Evaluated(evaluation(record(1, "A", 0), 2))
	ts.Settled(1, 0, 0, "kafka", Delivered, "")
	ts.Settled(1, 1, 0, "redis", Delivered, "")
	other := record(2, "A", 0)
	other.Topic = "v1/A/up/alarm"
	ts.Evaluated(evaluation(other, 2))
	same(t, await(t, tr, 3), "1 journaled", "1 rule b stopped the condition is false", "1 target b delivered redis")
}

// Steps beyond the bounds are dropped, and their count is reported.
func TestBounds(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]Bounds{
		"steps": {PerSecond: 1e6, Steps: 3, Bytes: 1 << 20, Messages: 100},
		"bytes": {PerSecond: 1e6, Steps: 1000, Bytes: 3 * (overhead + 32), Messages: 100},
		"rate":  {PerSecond: 3, Steps: 1000, Bytes: 1 << 20, Messages: 100},
	} {
		ts, _ := traces(b)
		tr := begin(t, ts, Filter{Topic: "#"})
		for seq := range uint64(1000) {
			ts.Received([]message.Record{record(seq+1, "A", 1)}, time.Now())
		}
		got := await(t, tr, 4)
		if last := got[len(got)-1]; len(got) > 10 || !strings.HasPrefix(last, "0 dropped 99") || ts.Dropped() < 990 {
			t.Errorf("%s: %q, %d dropped", name, got, ts.Dropped())
		}
	}
	ts, _ := traces(Bounds{PerSecond: 1e6, Steps: 1e6, Bytes: 1 << 30, Messages: 10})
	tr := begin(t, ts, Filter{Topic: "#"})
	for seq := range uint64(1000) {
		ts.Received([]message.Record{record(seq+1, "A", 1)}, time.Now())
	}
	if len(tr.open) > 10 || len(tr.order) > 21 {
		t.Errorf("%d messages are followed, %d are in the order", len(tr.open), len(tr.order))
	}
}

// Places are limited, and no owner has more than half; End releases one, and after the last no goroutine is left.
func TestPlaces(t *testing.T) {
	t.Parallel()
	ts, _ := traces(ample)
	a, err := ts.Begin(Filter{VIN: "A"}, "ann")
	check.OK(t, err)
	if _, err := ts.Begin(Filter{VIN: "A"}, "ann"); !errors.Is(err, ErrShare) {
		t.Errorf("a second of the same: %v", err)
	}
	b, err := ts.Begin(Filter{VIN: "A"}, "bob")
	check.OK(t, err)
	if _, err := ts.Begin(Filter{VIN: "A"}, "eve"); !errors.Is(err, errFull) {
		t.Errorf("a third: %v", err)
	}
	done := ts.done
	a.End()
	b.End()
	<-done
	if ts.On() || ts.Tracers() != 0 {
		t.Error("on although nobody looks on")
	}
	begin(t, ts, Filter{VIN: "A"})
	if !ts.On() {
		t.Error("off although somebody looks on")
	}
}

func TestNobodyAllocatesNothing(t *testing.T) {
	var none *Traces
	ts, _ := traces(ample)
	if n := testing.AllocsPerRun(100, func() { _, _ = none.On(), ts.On() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOff(b *testing.B) {
	ts, _ := traces(ample)
	for b.Loop() {
		if ts.On() {
			b.Fatal("on")
		}
	}
}

package sink

import (
	"testing"

	"cellgate/test/check"
)

func TestALostRecordShowsAsMismatch(t *testing.T) {
	t.Parallel()
	env := &environment{deliveries: deliveries{sets: &ruleSets{}}, appended: func() (uint64, uint64) { return 3, 3 }}
	p := &pipeline{limits: Limits{Messages: 10, Bytes: 1 << 20}, wake: make(chan struct{}, 1), env: env}
	p.eval.received++
	slot, isLive := p.offer(1, 1, 1)
	if l := p.ledger(); !isLive || !l.Balanced || l.Pending != 3 || l.Unevaluated != 2 {
		t.Fatalf("pending: %+v", l)
	}
	p.eval.received++
	p.eval.filtered++
	p.settle(Ticket{slot: slot, seq: 1}, delivered, "")
	check.OK(t, p.endBatch(2))
	if l := p.ledger(); !l.Balanced || l.Received != 3 || l.Unevaluated != 1 || l.Delivered != 1 || l.Filtered != 1 {
		t.Fatalf("settled: %+v", l)
	}
	p.eval.received++ // a record that was read and then forgotten
	check.OK(t, p.endBatch(3))
	if p.ledger().Balanced {
		t.Fatal("a forgotten record does not show")
	}
}

func TestTrackerMovesOnlyOverASettledPrefix(t *testing.T) {
	t.Parallel()
	var tr tracker
	var slots []uint64
	for seq := uint64(1); seq <= 200; seq++ {
		slots = append(slots, tr.add(seq, 0, 2))
	}
	for i := len(slots) - 1; i > 0; i-- {
		if tr.settle(slots[i], dropped, "x") != nil {
			t.Fatal("settled with one message open")
		}
		if e := tr.settle(slots[i], delivered, ""); e == nil || e.outcome != dropped || e.reason != "x" {
			t.Fatalf("entry %d: %+v, want the higher outcome", i, e)
		}
		if _, ok := tr.pop(); ok {
			t.Fatal("moved over an open entry")
		}
	}
	tr.settle(slots[0], delivered, "")
	tr.settle(slots[0], deadLettered, "")
	for seq := uint64(1); seq <= 200; seq++ {
		if e, ok := tr.pop(); !ok || e.seq != seq {
			t.Fatalf("pop %d: %+v %t", seq, e, ok)
		}
	}
	if tr.open != 0 || tr.len() != 0 {
		t.Fatalf("left: %d open, %d entries", tr.open, tr.len())
	}
}

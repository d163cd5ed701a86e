package sink

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"cellgate/rules/engine"
)

func TestChunkRoundTrip(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's choices
	var w chunkWriter
	type record struct {
		seq uint64
		ds  []engine.Decision
	}
	var want []record
	seq := uint64(1 << 40)
	for range 300 {
		seq += 1 + rnd.Uint64N(1000)
		r := record{seq: seq}
		for range 1 + rnd.IntN(3) {
			d := engine.Decision{Rule: uint16(rnd.IntN(1 << 16)), Target: uint16(rnd.IntN(16))} //nolint:gosec // in range
			if rnd.IntN(4) == 0 {
				d.Values = []byte(`{"x":1}`)
			}
			if rnd.IntN(9) == 0 {
				d.Target, d.Err = engine.TargetError, "no such field"
			}
			r.ds = append(r.ds, d)
		}
		w.add(7, r.seq, r.ds)
		want = append(want, r)
	}
	c := w.take()
	if !w.empty() || c.last != seq {
		t.Fatalf("after take: empty %t, last %d", w.empty(), c.last)
	}
	r, err := readChunk(c.data)
	if err != nil || r.set != 7 {
		t.Fatalf("set %d: %v", r.set, err)
	}
	for _, x := range want {
		got, ds, ok, err := r.next(nil)
		if err != nil || !ok || got != x.seq || fmt.Sprint(ds) != fmt.Sprint(x.ds) {
			t.Fatalf("record %d %v: %d %v %t %v", x.seq, x.ds, got, ds, ok, err)
		}
	}
	if _, _, ok, err := r.next(nil); ok || err != nil {
		t.Fatalf("after the end: %t %v", ok, err)
	}
}

func FuzzChunk(f *testing.F) {
	var w chunkWriter
	w.add(1, 5, []engine.Decision{{Rule: 1}, {Rule: 2, Values: []byte("{}")}})
	f.Add(w.take().data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		r, err := readChunk(data)
		if err != nil {
			return
		}
		for {
			if _, _, ok, err := r.next(nil); !ok || err != nil {
				return
			}
		}
	})
}

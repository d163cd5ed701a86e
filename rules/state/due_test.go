package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// TestDueIsInOrder compares the due order with a linear search over changes, restarts, clock steps and forgotten VINs.
func TestDueIsInOrder(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's choices
	type waiting struct {
		due int64
		vin string
	}
	wakes := map[uint64]struct{}{7: {}}
	s := NewState(StateOptions{})
	s.Adopt(wakes, wakes)
	now, due := int64(1_000_000), map[string]int64{} // due by the clock before all its steps
	for range 20_000 {
		now += rnd.Int64N(5)
		vin := fmt.Sprintf("V%d", rnd.IntN(300))
		switch rnd.IntN(300) {
		case 0:
			s.StepClock(message.ClockStep{From: now, To: now + 10_000 - rnd.Int64N(20_000)})
		case 1:
			again := NewState(StateOptions{})
			again.SetShift(s.Shift())
			for i := range Shards {
				s.MarkChanged(i)
			}
			s.TakeChanged(func(vin string, data []byte) {
				check.OK(t, again.Load(vin, bytes.Clone(data)))
			})
			again.Adopt(wakes, wakes)
			s = again
		case 2:
			check.OK(t, s.Load(vin, nil))
			delete(due, vin)
		case 3, 4, 5, 6:
			var want, got []waiting
			for vin, at := range due {
				if at <= now {
					want = append(want, waiting{at, vin})
				}
			}
			for shard := range Shards {
				for {
					d, ok := s.TakeDue(shard, now+s.Shift())
					if !ok {
						break
					}
					got = append(got, waiting{d.At - s.Shift(), d.VIN})
					delete(due, d.VIN)
				}
			}
			slices.SortFunc(want, func(a, b waiting) int {
				return slices.Compare([]int64{int64(ShardOf(a.vin)), a.due}, []int64{int64(ShardOf(b.vin)), b.due})*2 + bytes.Compare([]byte(a.vin), []byte(b.vin))
			})
			if !slices.Equal(got, want) {
				t.Fatalf("due were\n%v\nwant\n%v", got, want)
			}
		default:
			c := Cell{State: s, VIN: vin, Key: 7, Received: now + s.Shift(), Now: now + s.Shift()}
			if due[vin] = now + rnd.Int64N(2000); rnd.IntN(10) == 0 {
				delete(due, vin)
				c.Touch().Wake(0)
				continue
			}
			c.Touch().Wake(due[vin] + s.Shift())
		}
		first := int64(never)
		for _, at := range due {
			first = min(first, at)
		}
		if at, ok := s.NextDue(); ok != (len(due) > 0) || ok && at-s.Shift() != first {
			t.Fatalf("next is %d %t, want %d", at-s.Shift(), ok, first)
		}
	}
}

// TestStoredForms pins the form that this version writes, and checks that it reads that of the previous version.
func TestStoredForms(t *testing.T) {
	t.Parallel()
	v := vinState{touched: 300, changed: 1_763_600_000_000, shift: -5, ops: []Memory{
		{key: 1, Num: 2, At: 1_763_599_999_000},
		{key: 2, List: []Stamp{{0, 1_763_599_990_000}, {0, 1_763_599_995_000}}},
		{key: 3, List: []Stamp{{9, 1_763_599_990_000}}, At: Timeless, Text: []byte(`"D"`)},
		{key: 4, Due: 1_763_600_060_000, Seen: 1_763_599_000_000, keyed: []Memory{{key: 8, Num: 1}, {key: 5, At: 1_763_600_000_000}}},
	}}
	const want = "03ac02809083ecd366090400000000000000010302cf0f000000000000000204029f9c01904e0000000000000003" +
		"8efd8f83ecd3660100000000000000099f9c0103224422000000000000000470c0a907ff887a020000000000000008010100000000000000050200"
	got := v.append(nil)
	back, err := unmarshalVIN(got)
	check.OK(t, err)
	if again := back.append(nil); hex.EncodeToString(got) != want || !bytes.Equal(again, got) {
		t.Fatalf("stored\n%x, then\n%x, want\n%s", got, again, want)
	}
	v.ops = v.ops[:3] // all that version 2 can express
	old := binary.AppendUvarint([]byte{2}, v.touched)
	old = binary.AppendVarint(binary.AppendVarint(old, v.changed), v.shift)
	old = binary.AppendUvarint(old, uint64(len(v.ops)))
	for _, o := range v.ops {
		old = binary.AppendUvarint(binary.BigEndian.AppendUint64(old, o.key), o.Num)
		old = binary.AppendUvarint(binary.AppendVarint(old, o.At), uint64(len(o.List)))
		last := int64(0)
		for _, e := range o.List {
			old = binary.AppendVarint(binary.BigEndian.AppendUint64(old, e.Hash), e.At-last)
			last = e.At
		}
		old = append(binary.AppendUvarint(old, uint64(len(o.Text))), o.Text...)
	}
	if back, err = unmarshalVIN(old); err != nil || !bytes.Equal(back.append(nil), v.append(nil)) {
		t.Fatalf("of version 2 %+v, %v", back, err)
	}
	for n := range old { // every prefix is incomplete
		if _, err := unmarshalVIN(old[:n]); err == nil {
			t.Fatalf("%d bytes of %d are read", n, len(old))
		}
	}
}

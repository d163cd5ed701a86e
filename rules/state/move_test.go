package state

import (
	"errors"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

const movedVehicle = "LTRAVEL0000000001"

func keySet(keys ...uint64) map[uint64]struct{} {
	set := map[uint64]struct{}{}
	for _, k := range keys {
		set[k] = struct{}{}
	}
	return set
}

// knowing returns a state with numbers of some operators of the movedVehicle since a time.
func knowing(shift int64, at int64, nums map[uint64]uint64) *State {
	s := NewState(StateOptions{MaxVINBytes: 1 << 14})
	s.Adopt(keySet(1, 2, 3), keySet(3))
	s.SetShift(shift)
	for key, n := range nums {
		m := (&Cell{State: s, VIN: movedVehicle, Key: key, Received: at, Now: at}).Touch()
		m.Num, m.At = n, at
	}
	return s
}

// number returns an operator's number for the movedVehicle and its time.
func (s *State) number(key uint64, now int64) (num uint64, at int64) {
	m := (&Cell{State: s, VIN: movedVehicle, Key: key, Received: now, Now: now}).Peek()
	if m == nil {
		return 0, 0
	}
	return m.Num, m.At
}

func (s *State) applied(t *testing.T, data []byte, at int64) bool {
	t.Helper()
	rec := message.OperatorState(movedVehicle, data)
	rec.ReceivedAt = at
	s.Advance(at)
	done, err := s.Apply(&rec)
	check.OK(t, err)
	return done
}

// TestMovedStateJoins checks that for an operator that both gateways know the later state counts, and that of others the
// only one. Each gateway has its own clock steps.
func TestMovedStateJoins(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		what             string
		ours             map[uint64]uint64
		oursAt, theirsAt int64
		want             [2]uint64
	}{
		{"nothing here", nil, 0, 5000, [2]uint64{11, 12}},
		{"older here", map[uint64]uint64{1: 21}, 4000, 5000, [2]uint64{11, 12}},
		{"later here", map[uint64]uint64{1: 21}, 6000, 5000, [2]uint64{21, 12}},
	} {
		theirs := knowing(700, one.theirsAt, map[uint64]uint64{1: 11, 2: 12})
		theirs.StepClock(message.ClockStep{From: one.theirsAt, To: one.theirsAt + 300})
		data := theirs.Current(movedVehicle)
		ours := knowing(-50, one.oursAt, one.ours)
		if !ours.applied(t, data, 7000) {
			t.Errorf("%s: not taken", one.what)
		}
		first, _ := ours.number(1, 7000)
		second, since := ours.number(2, 7000)
		if first != one.want[0] || second != one.want[1] || since != one.theirsAt+300 {
			t.Errorf("%s: %d, %d since %d", one.what, first, second, since)
		}
		if !theirs.applied(t, nil, 7000) || theirs.Current(movedVehicle) != nil || theirs.applied(t, nil, 7001) {
			t.Errorf("%s: it is not forgotten where it was", one.what)
		}
	}
}

// TestMovedStateIsStored checks that a vehicle that arrives and one that leaves count as changed, and are due only where
// they are.
func TestMovedStateIsStored(t *testing.T) {
	t.Parallel()
	from, to := knowing(0, 5000, map[uint64]uint64{1: 1, 3: 3}), knowing(0, 0, nil)
	(&Cell{State: from, VIN: movedVehicle, Key: 3, Received: 5000, Now: 5000}).Touch().Wake(9000)
	from.TakeChanged(func(string, []byte) {})
	data := from.Current(movedVehicle)
	to.applied(t, data, 6000)
	from.applied(t, nil, 6000)
	if due, waits := to.NextDue(); !waits || due != 9000 {
		t.Errorf("due at %d: %v", due, waits)
	}
	if _, waits := from.NextDue(); waits {
		t.Error("due where it was")
	}
	for s, want := range map[*State]bool{from: false, to: true} {
		changes := 0
		s.TakeChanged(func(vin string, data []byte) {
			changes++
			if vin != movedVehicle || (data != nil) != want {
				t.Errorf("%s has %x", vin, data)
			}
		})
		if changes != 1 {
			t.Errorf("%d changes", changes)
		}
	}
}

// TestMovedStateOfOtherRules checks that the state of rules that only the other gateway has is kept as if they had been
// removed here, and that a VIN that is too large is not taken.
func TestMovedStateOfOtherRules(t *testing.T) {
	t.Parallel()
	theirs := knowing(0, 5000, map[uint64]uint64{1: 1})
	theirs.Adopt(keySet(1, 9), nil)
	(&Cell{State: theirs, VIN: movedVehicle, Key: 9, Received: 5000, Now: 5000}).Touch().Num = 9
	data := theirs.Current(movedVehicle)
	ours := knowing(0, 0, nil)
	ours.applied(t, data, 6000)
	if n, _ := ours.Removed(); n != 1 {
		t.Errorf("%d operators without rules", n)
	}
	ours.Advance(6000 + KeepRemoved.Milliseconds())
	if left, _ := ours.number(9, 7000); left != 0 {
		t.Error("it is kept for ever")
	}
	if kept, _ := ours.number(1, 7000); kept != 1 {
		t.Error("what rules have is gone")
	}
	small := NewState(StateOptions{MaxVINBytes: 20})
	small.Adopt(keySet(1), nil)
	if small.applied(t, knowing(0, 5000, map[uint64]uint64{1: 1}).Current(movedVehicle), 6000) || small.VINs() != 0 {
		t.Error("taken beyond the bound")
	}
	rec := message.OperatorState(movedVehicle, []byte{99})
	if _, err := ours.Apply(&rec); !errors.Is(err, ErrBadState) || !errors.Is(Valid(rec.Payload), ErrBadState) {
		t.Errorf("%v", err)
	}
}

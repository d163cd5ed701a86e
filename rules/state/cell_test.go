package state

import "testing"

// TestOneVINKeepsItsBound checks that a list gives way until its VIN is within its bytes, whatever took them.
func TestOneVINKeepsItsBound(t *testing.T) {
	t.Parallel()
	s := NewState(StateOptions{MaxVINBytes: 400})
	list, other := Cell{State: s, VIN: "V", Key: 7}, Cell{State: s, VIN: "V", Key: 8}
	for i := range 40 {
		if i == 30 {
			other.Touch()
		}
		m := list.Touch()
		m.Remember(Stamp{Hash: uint64(i), At: int64(i)}, 100) //nolint:gosec // positive
		if over := s.over(m.vin); over > 0 {
			t.Fatalf("%d bytes over the bound after %d entries", over, i+1)
		}
	}
}

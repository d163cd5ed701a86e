package waltest

import (
	"os"
	"slices"
	"strconv"
	"testing"
)

// States returns how many crash states a test of power loss examines: POWER_STATES, or usual.
func States(t testing.TB, usual int) int {
	t.Helper()
	v := os.Getenv("POWER_STATES")
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("POWER_STATES: %v", err)
	}
	return n
}

// Unseen returns the operations of all before which there was no crash state.
func Unseen(seen map[Op]int, all []Op) []Op {
	return slices.DeleteFunc(slices.Clone(all), func(o Op) bool { return seen[o] > 0 })
}

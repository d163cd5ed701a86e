package app

import (
	"testing"

	"cellgate/rules/op"
)

// TestEveryTargetHasASink: what a rule can name is delivered.
func TestEveryTargetHasASink(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	there := map[string]bool{}
	for _, l := range a.dispatch.Ledger() {
		there[l.Sink] = true
	}
	for _, target := range op.Targets() {
		if !there[string(target.Kind)] {
			t.Errorf("nothing delivers to %s", target.Kind)
		}
	}
}

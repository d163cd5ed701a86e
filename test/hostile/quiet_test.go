package hostile

import (
	"context"
	"testing"
)

// TestNoAttack checks that honest clients without an attack pass the checks of every attack.
func TestNoAttack(t *testing.T) {
	t.Parallel()
	besiege(t, siege{commands: true, attack: func(ctx context.Context, _ *testing.T, _ *cell) { <-ctx.Done() }})
}

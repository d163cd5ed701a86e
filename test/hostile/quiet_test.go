package hostile

import (
	"context"
	"testing"
)

// TestNoAttack shows that honest clients alone pass what every attack is held to.
func TestNoAttack(t *testing.T) {
	t.Parallel()
	besiege(t, siege{commands: true, attack: func(ctx context.Context, _ *testing.T, _ *cell) { <-ctx.Done() }})
}

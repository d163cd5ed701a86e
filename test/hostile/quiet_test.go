package hostile

import (
	"context"
	"testing"
)

// TestNoAttack checks that honest clients without an attack pass the checks of every attack.
func TestNoAttack(t *testing.T) {
	t.Parallel()
	attackUntilDone(t, attackPlan{commands: true, attack: func(ctx context.Context, _ *testing.T, _ *cell) { <-ctx.Done() }})
}

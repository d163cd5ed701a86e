package harness

import (
	"context"
	"io"
	"testing"

	"cellgate/test/check"
)

// Serve starts a gateway inside the test's process, for tests that need its internals, and stops it when the test ends.
// A failed test shows its log. StartGateway uses a separate process.
func Serve[G interface{ Stop(context.Context) error }](t testing.TB, start func(ctx context.Context, log io.Writer) (G, error)) (G, *check.Log) {
	t.Helper()
	log := &check.Log{}
	g, err := start(t.Context(), log)
	check.OK(t, err)
	t.Cleanup(func() {
		check.Ended(t, g.Stop)
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", log)
		}
	})
	return g, log
}

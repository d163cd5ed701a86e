package harness

import (
	"context"
	"io"
	"testing"

	"cellgate/test/check"
)

// Serve starts a gateway inside the test's own process, for a test that looks into it, and stops it with the test, whose failure
// shows the log. StartGateway gives it a process of its own.
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

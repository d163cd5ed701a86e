package spans

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/command"
	"cellgate/broker/shared/trace"
	"cellgate/test/check"
)

// A receiver that takes nothing, or is too slow, costs spans and nothing else, and the spans are counted.
func TestReceiverAway(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	t.Cleanup(func() { close(held) })
	for name, o := range map[string]struct {
		answer  http.HandlerFunc
		outcome string
	}{
		"refuses": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, notAccepted},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-held:
			case <-r.Context().Done():
			}
		}, queueFull},
	} {
		server := httptest.NewServer(o.answer)
		t.Cleanup(server.CloseClientConnections)
		sampling := trace.NewSampling(1, "gw-1", 1)
		traces := trace.New(trace.Options{Max: 1, Durable: func() uint64 { return 0 }, WaitDurable: func(ctx context.Context, _ uint64) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		log := &check.Log{}
		e, err := New(Options{
			Endpoint: server.URL, Cell: "c", Node: "gw-1", Version: "v", Epoch: 1, Sampling: sampling, Queue: 600, Messages: 10, Patience: time.Second,
			Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: prometheus.NewRegistry(),
		}, traces.Export(sampling, trace.Bounds{PerSecond: 10, Steps: 10, Bytes: 1000, Messages: 10}))
		check.OK(t, err)
		lost := func() int { return int(testutil.ToFloat64(e.outcome.WithLabelValues(o.outcome))) }
		for range 2000 { // more than a batch and the queue
			e.Command(command.Change{Command: command.Command{ID: "c1", State: command.Sent, CreatedAt: 1, SentAt: 2}})
		}
		check.Eventually(t, name+": spans are counted as dropped", func() bool { return lost() > 0 })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_ = e.Close(ctx)
		cancel()
		if o.outcome == notAccepted && !strings.Contains(log.String(), "the receiver of traces accepts no spans") {
			t.Errorf("%s: %s", name, log)
		}
	}
}

package app

import (
	"log/slog"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/test/check"
)

// TestFailedClaim: a CONNECT whose claim fails is admitted then, and does not wait for an answer that will not come.
func TestFailedClaim(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true})
	defer client.Close() //nolint:errcheck // nothing is written
	store, err := cell.NewStore(client, "cell-1", cell.Confirmation{Wait: time.Second}, time.Hour)
	check.OK(t, err)
	server.SetError("LOADING Redis is loading the dataset in memory")
	stats, log := newCellMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler)
	c := newClaims(&peers{disk: &disk{process: &process{log: log}}, member: &member{store: store, metrics: stats, log: log}, cellStats: stats})
	c.wait.Store(int64(time.Hour))
	done := make(chan struct{})
	go func() {
		defer close(done)
		got := c.Claim(t.Context(), roamer)
		if got.Known || got.Number == 0 {
			t.Errorf("%+v", got)
		}
		<-got.Ready // what the connection publishes is not held back either
	}()
	check.Eventually(t, "the vehicle to be admitted", func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	one, _ := c.of(roamer)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !one.late || one.asking {
		t.Errorf("it is not claimed later: %+v", one)
	}
}

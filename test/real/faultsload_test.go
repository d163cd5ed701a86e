//go:build real

package real

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/test/harness"
)

// startFleet runs the simulator until harness.EndFleet, appending to the ledger.
func startFleet(t *testing.T, g *harness.Gateway, name, ledger string, vehicles, rate int) *harness.Process {
	t.Helper()
	return g.Fleet(name, "--vehicles", fmt.Sprint(vehicles), "--rate", fmt.Sprint(rate), "--ledger", ledger, "--json")
}

// rss records the highest resident memory of a process.
type rss struct{ highest atomic.Int64 }

// watchRSS polls the gateway's memory until the test ends.
func watchRSS(t *testing.T, g *harness.Gateway) *rss {
	t.Helper()
	r := &rss{}
	look := func() {
		if now, err := g.RSS(); err == nil {
			r.highest.Store(max(r.highest.Load(), now))
		}
	}
	look()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
				look()
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return r
}

func (r *rss) max() int64 { return r.highest.Load() }

// auditNewest checks that every vehicle's hash is of its last acknowledged message, or a later one.
func auditNewest(t *testing.T, addr string, acked harness.Acked) {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, DisableIdentity: true})
	defer func() { _ = c.Close() }()
	auditNewestIn(t, c, acked)
}

func auditNewestIn(t *testing.T, c goredis.UniversalClient, acked harness.Acked) {
	t.Helper()
	if err := newestIn(t, c, acked); err != nil {
		t.Error(err)
	}
}

// newestIn returns an error unless every vehicle's hash is of its last acknowledged message, or a later one.
func newestIn(t *testing.T, c goredis.UniversalClient, acked harness.Acked) error {
	t.Helper()
	var old []error
	for vin, seqs := range acked {
		var last int64
		for seq := range seqs {
			last = max(last, seq)
		}
		got, err := c.HGet(t.Context(), "veh:"+vin, "seq").Int64()
		if err != nil || got < last {
			old = append(old, fmt.Errorf("veh:%s has seq %d (%w), acknowledged was %d", vin, got, err, last))
		}
	}
	fmt.Printf("%d vehicles in Redis, %d older than acknowledged\n", len(acked), len(old))
	return errors.Join(old[:min(len(old), 5)]...)
}

package app

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/test/check"
)

// claimsAt returns claims that are made at a Redis.
func claimsAt(t *testing.T, client *redis.Client) *claims {
	t.Helper()
	store := storeAt(t, client)
	stats, log := newCellMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler)
	m := &member{store: store, metrics: stats, log: log, shards: newShards(1)}
	m.shards.of(0).away.Store(false)
	return newClaims(&peers{disk: &disk{process: &process{log: log}}, member: m, cellStats: stats})
}

// slowWay delays requests on their way to Redis.
type slowWay struct{ by time.Duration }

func (s *slowWay) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (s *slowWay) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (s *slowWay) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		time.Sleep(s.by) // the fault itself
		return next(ctx, cmds)
	}
}

// TestSlowClaimKeepsTheTime: the answer to a request that took long on its way does not move Redis' time, by which the
// records of vehicles are ordered while Redis is away.
func TestSlowClaimKeepsTheTime(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), MaxRetries: -1, DisableIdentity: true})
	defer client.Close() //nolint:errcheck // nothing is written
	way := &slowWay{}
	client.AddHook(way)
	c := claimsAt(t, client)
	c.presence = &cellPresence{wake: make(chan struct{}, 1)}
	ask := func(vin string) time.Duration {
		one := &claim{vin: vin, began: time.Now(), conn: cell.Connection{Node: "gw-1", Boot: "b"}, hold: hold{open: make(chan struct{})}}
		if _, ok := c.ask(t.Context(), one); !ok {
			t.Fatal("no answer")
		}
		return time.Since(one.began)
	}
	took := ask("LTEST000000000001")
	way.by = 2*took + 200*time.Millisecond
	if slow := ask("LTEST000000000002"); slow < way.by {
		t.Fatalf("the request was not delayed: %v", slow)
	}
	least := time.Now().Add(-took).UnixMilli() - 2 // a millisecond for each of the clocks
	if now, most := c.clock.now(), time.Now().Add(took).UnixMilli()+2; now < least || now > most {
		t.Errorf("the time is %d, want %d to %d", now, least, most)
	}
}

// TestFailedClaim: a CONNECT whose claim fails is admitted then, and does not wait for an answer that will not come.
func TestFailedClaim(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true})
	defer client.Close() //nolint:errcheck // nothing is written
	c := claimsAt(t, client)
	server.SetError("LOADING Redis is loading the dataset in memory")
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

// TestRedisClock: answers bound Redis' time together, and a clock that was moved is followed.
func TestRedisClock(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := redisClock{began: began}
	at := func(d time.Duration) time.Time { return began.Add(d) }
	const ahead = 1_000_000
	off := func() int64 {
		return c.least.Add(c.most.Sub(c.least)/2).UnixMilli() - began.UnixMilli()
	}
	hear := func(sent, ran, received time.Duration, by int64) {
		c.heard(began.Add(ran).UnixMilli()+by, at(sent), at(received))
	}
	hear(0, 0, time.Second, ahead) // slow on its way back
	hear(2*time.Second, 3*time.Second, 3*time.Second, ahead)
	if got := off(); got < ahead-2 || got > ahead+2 {
		t.Errorf("off by %d ms after two slow answers", got-ahead)
	}
	hear(4*time.Second, 4500*time.Millisecond, 5*time.Second, ahead)
	if got := off(); got < ahead-2 || got > ahead+2 {
		t.Errorf("off by %d ms after one that shows nothing new", got-ahead)
	}
	hear(6*time.Second, 6*time.Second, 6001*time.Millisecond, -ahead)
	if got := off(); got < -ahead-2 || got > -ahead+2 {
		t.Errorf("off by %d ms after the clock was moved", got+ahead)
	}
}

package cell

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"cellgate/test/check"
)

// TestClaimsDoNotWaitForReplicas: while replicas confirm slowly, claims, notices and what a gateway left are not held up by
// calls that wait for a confirmation, however many there are.
func TestClaimsDoNotWaitForReplicas(t *testing.T) {
	t.Parallel()
	const connections = 8
	redisServer := miniredis.RunT(t)
	waiting, confirmed := make(chan struct{}, 8*connections), make(chan struct{})
	confirm := sync.OnceFunc(func() { close(confirmed) })
	defer confirm()
	redisServer.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
		switch cmd {
		case "INFO":
			c.WriteBulk("run_id:ab\r\nmaster_replid:cd\r\n")
		case "WAIT":
			waiting <- struct{}{}
			<-confirmed
			c.WriteInt(1)
		default:
			return false
		}
		return true
	})
	client := redis.NewClient(&redis.Options{
		Addr: redisServer.Addr(), MaxRetries: -1, DisableIdentity: true, PoolSize: connections, ReadTimeout: time.Minute, PoolTimeout: 10 * time.Second,
	})
	t.Cleanup(func() { _ = client.Close() })
	s, err := NewStore(client, "cell-1", Confirmation{Replicas: 1, Wait: 30 * time.Second}, time.Hour)
	check.OK(t, err)
	var calls sync.WaitGroup
	for i := range 2 * connections {
		calls.Go(func() {
			if _, _, err := s.Presence(t.Context(), "V"+strconv.Itoa(i), Connection{Node: "gw-1", Boot: "b", Epoch: 1}, "connected", "", time.Now(), 0); err != nil {
				t.Error(err)
			}
		})
	}
	for range connections * 3 / 4 {
		<-waiting
	}
	if got, err := s.Claim(t.Context(), "W", Connection{Node: "gw-1", Boot: "b", Number: 1}, 0, false); err != nil || got.Verdict != OK {
		t.Errorf("a claim: %+v, %v", got, err)
	}
	if _, err := s.Notify(t.Context(), "gw-2", "hello"); err != nil {
		t.Error(err)
	}
	if _, _, err := s.LeftBy(t.Context(), "W", Connection{Node: "gw-2"}); err != nil {
		t.Error(err)
	}
	confirm()
	calls.Wait()
}

// TestSameHistory: what a server confirms that was demoted and promoted meanwhile counts as unconfirmed.
func TestSameHistory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		server, info string
		failed, same bool
	}{
		{"ab:cd:17.5", "role:master\r\nmaster_replid:cd\r\nmaster_replid2:ef\r\n", false, true},
		{"ab:ef:17.5", "role:master\r\nmaster_replid:cd\r\nmaster_replid2:ef\r\n", false, false},
		{"ab:cd:17.5", "", true, false},
		{"ab:?:17.5", "role:master\r\n", false, false},
		{"ab:cd:17.5", "master_replid:", false, false},
	} {
		info := redis.NewStringResult(c.info, nil)
		if c.failed {
			info = redis.NewStringResult("", redis.ErrClosed)
		}
		if err := sameHistory(c.server, info); (err == nil) != c.same || err != nil && !errors.Is(err, ErrUnconfirmed) {
			t.Errorf("%s, %q: %v", c.server, c.info, err)
		}
	}
}

package redis_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"

	"cellgate/broker/shared/remote"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/redis"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// clusterRig has a gateway's sinks and a cluster of two shards, each with half of the slots.
type clusterRig struct {
	*sinktest.Rig
	shards [2]*miniredis.Miniredis
	looks  [2]*goredis.Client
}

const streamRules = `
rules:
  - id: stream
    from: ["v1/+/up/telemetry"]
    to:
      - redis: {stream: "x:${vin}", fields: payload}
`

func newClusterRig(t *testing.T) *clusterRig {
	t.Helper()
	r := &clusterRig{}
	for i := range r.shards {
		r.shards[i] = miniredis.RunT(t)
		r.looks[i] = goredis.NewClient(&goredis.Options{Addr: r.shards[i].Addr(), DisableIdentity: true})
		t.Cleanup(func() { _ = r.looks[i].Close() })
	}
	// The addresses outlive the servers, which are stopped and restarted.
	slots := []goredis.ClusterSlot{
		{Start: 0, End: 8191, Nodes: []goredis.ClusterNode{{Addr: r.shards[0].Addr()}}},
		{Start: 8192, End: 16383, Nodes: []goredis.ClusterNode{{Addr: r.shards[1].Addr()}}},
	}
	small := func(o *sink.Options) { o.Sinks[1].Limits.Messages = 256 }
	r.Rig = sinktest.New(t, sinktest.Setup{Rules: streamRules, Change: small, Sinks: func() []sink.Binding {
		client := goredis.NewClusterClient(&goredis.ClusterOptions{
			ClusterSlots: func(context.Context) ([]goredis.ClusterSlot, error) { return slots, nil },
			DialTimeout:  time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second,
			MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		})
		pace := remote.Pace{BackoffMin: 2 * time.Millisecond, BackoffMax: 20 * time.Millisecond, PingInterval: 10 * time.Millisecond}
		s, err := redis.New(redis.Options{Client: client, Pace: pace, Log: slog.New(slog.DiscardHandler)})
		check.OK(t, err)
		return []sink.Binding{{Sink: sinktest.NewMemory(op.SinkKafka)}, {Sink: s}}
	}})
	return r
}

// stored returns the number of messages of the rig's seven vehicles in a shard.
func (r *clusterRig) stored(shard int) (n int64) {
	for v := range 7 {
		n += r.looks[shard].XLen(context.Background(), "x:"+sinktest.VIN(v)).Val()
	}
	return n
}

// inOrder checks that the shards together have all messages, each vehicle's in order. After a failed message, later
// ones of the same pipeline may be repeated.
func (r *clusterRig) inOrder(t *testing.T, messages int) {
	t.Helper()
	seen := map[int]bool{}
	for shard := range r.looks {
		for v := range 7 {
			all := r.looks[shard].XRange(context.Background(), "x:"+sinktest.VIN(v), "-", "+").Val()
			next, again := messages, map[int]bool{}
			for _, e := range slices.Backward(all) {
				n, err := strconv.Atoi(fmt.Sprint(e.Values["n"]))
				check.OK(t, err)
				if !again[n] && n > next {
					t.Errorf("shard %d, vehicle %d: %d for the last time before %d", shard, v, n, next)
				}
				next, again[n], seen[n] = min(n, next), true, true
			}
		}
	}
	if len(seen) != messages {
		t.Errorf("%d of %d messages in Redis", len(seen), messages)
	}
}

// silent makes a server accept connections without answering.
func silent(t *testing.T, m *miniredis.Miniredis) (end func()) {
	addr := m.Addr()
	m.Close()
	l, err := net.Listen("tcp", addr)
	check.OK(t, err)
	accepted := make(chan net.Conn, 1<<10)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return func() {
		_ = l.Close()
		for c := range accepted {
			_ = c.Close()
		}
		check.OK(t, m.Restart())
	}
}

// TestStalledShardDelaysNoOther checks that while one shard is away, full, or silent, messages for the other
// are delivered, beyond the window and over a restart; once it is back it gets everything, in order.
func TestStalledShardDelaysNoOther(t *testing.T) {
	t.Parallel()
	says := func(reply string) func(*testing.T, *miniredis.Miniredis) (end func()) {
		return func(_ *testing.T, m *miniredis.Miniredis) func() {
			m.SetError(reply)
			return func() { m.SetError("") }
		}
	}
	for name, begin := range map[string]func(t *testing.T, m *miniredis.Miniredis) (end func()){
		"away": func(t *testing.T, m *miniredis.Miniredis) func() {
			m.Close()
			return func() { check.OK(t, m.Restart()) }
		},
		"silent":            silent,
		"full":              says("OOM command not allowed when used memory > 'maxmemory'."),
		"moved in a circle": says("MOVED 9000 127.0.0.1:1"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newClusterRig(t)
			r.Publish(0, 70)
			r.Settled()
			before := r.stored(0)
			if before < 10 || before > 60 {
				t.Fatalf("shard 0 has %d of 70 messages", before)
			}
			end := begin(t, r.shards[1])
			r.Publish(70, 1400)
			r.Await(func() bool { return r.stored(0) == 21*before })
			r.Await(func() bool { return len(r.Dispatcher.Parked()) > 0 })
			for _, p := range r.Dispatcher.Parked() {
				if p.Sink != "redis" || !strings.HasPrefix(p.Destination, "slots/") || p.Reason == "" {
					t.Errorf("parked %+v", p)
				}
			}
			r.Balanced()
			check.OK(t, r.Dispatcher.Checkpoint())
			r.Kill()
			r.Open()
			r.Publish(1470, 700)
			r.Await(func() bool { return r.stored(0) >= 31*before })
			end()
			r.Settled()
			r.inOrder(t, 2170)
			r.Await(func() bool { return len(r.Dispatcher.Parked()) == 0 })
			r.Publish(2170, 70)
			r.Settled()
			r.inOrder(t, 2240)
			if l := r.Ledger("redis"); l.DeadLettered > 0 || l.Delivered != l.Received {
				t.Errorf("ledger %+v", l)
			}
			r.Stop()
		})
	}
}

// TestAnOutageOfAClusterParksNothing checks that while no slots take messages, they wait as for a Redis without shards.
func TestAnOutageOfAClusterParksNothing(t *testing.T) {
	t.Parallel()
	r := newClusterRig(t)
	for _, m := range r.shards {
		m.SetError("CLUSTERDOWN The cluster is down")
	}
	for v := range 200 { // some for each part of the slots
		r.Append(uplink(sinktest.VIN(v), sinktest.Payload(v)))
	}
	began := time.Now()
	r.Await(func() bool { return time.Since(began) > 3*time.Second || len(r.Dispatcher.Parked()) > 0 })
	if p := r.Dispatcher.Parked(); len(p) > 0 {
		t.Errorf("parked %+v", p)
	}
	for _, m := range r.shards {
		m.SetError("")
	}
	r.Settled()
	if l := r.Ledger("redis"); l.Delivered != 200 {
		t.Errorf("ledger %+v", l)
	}
	r.Stop()
}

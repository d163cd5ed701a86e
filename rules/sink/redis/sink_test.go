package redis_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"cellgate/broker/clock/clocktest"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/redis"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
	"cellgate/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const stateRules = `
schema: {event_at: ts}
rules:
  - id: state
    from: ["v1/+/up/telemetry"]
    to:
      - redis: {hash: "veh:${vin}", fields: payload, newer_than: _at}
`

// servers runs a test with miniredis and, if installed, with a real Redis.
func servers(t *testing.T, f func(t *testing.T, addr string)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		f(t, miniredis.RunT(t).Addr())
	})
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		path, err := exec.LookPath("redis-server")
		if err != nil {
			t.Skip("redis-server is not installed; make test-real installs it and runs this")
		}
		f(t, realRedis(t, path))
	})
}

// realRedis starts a server on a free port and returns its address.
func realRedis(t *testing.T, path string) string {
	t.Helper()
	port := strconv.Itoa(harness.FreePort(t))
	addr := net.JoinHostPort("127.0.0.1", port)
	cmd := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir()) //nolint:gosec // a test's server
	check.OK(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := goredis.NewClient(&goredis.Options{Addr: addr, DisableIdentity: true})
	defer func() { _ = c.Close() }()
	check.Within(t, check.Patience, "redis-server answers", func() error { return c.Ping(context.Background()).Err() })
	return addr
}

// rig is a dispatcher with the Redis sink, and a client for checks.
type rig struct {
	*sinktest.Rig
	kafka *sinktest.Memory
	look  *goredis.Client
}

func newRig(t *testing.T, addr, text string, change ...func(*sink.Options)) *rig {
	t.Helper()
	r := &rig{kafka: sinktest.NewMemory(op.SinkKafka), look: goredis.NewClient(&goredis.Options{Addr: addr, DisableIdentity: true})}
	t.Cleanup(func() { _ = r.look.Close() })
	apply := func(o *sink.Options) {
		for _, f := range change {
			f(o)
		}
	}
	r.Rig = sinktest.New(t, sinktest.Setup{Rules: text, Change: apply, Sinks: func() []sink.Binding {
		client := goredis.NewClient(&goredis.Options{
			Addr: addr, DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second,
			MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		})
		pace := remote.Pace{BackoffMin: 2 * time.Millisecond, BackoffMax: 20 * time.Millisecond, PingInterval: 10 * time.Millisecond}
		s, err := redis.New(redis.Options{Client: client, Pace: pace, Log: slog.New(slog.DiscardHandler)})
		check.OK(t, err)
		return []sink.Binding{{Sink: r.kafka}, {Sink: s}}
	}})
	return r
}

func uplink(vin, payload string) message.Record {
	return message.Record{Kind: message.KindPublish, QoS: 1, Client: vin, Topic: "v1/" + vin + "/up/telemetry", Payload: []byte(payload)}
}

func TestHashNeverGoesBackInTime(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, addr string) {
		r := newRig(t, addr, stateRules)
		const v = "LTEST000000000001"
		r.Append(uplink(v, `{"ts":1763600002000,"soc":50,"speed":10.5,"on":true,"name":"x"}`))
		r.Append(uplink(v, `{"ts":1763600001000,"soc":99,"old":1}`)) // older
		r.Append(uplink(v, `{"ts":1763600002000,"soc":51}`))         // same time, later in the journal
		r.Settled()
		got := r.look.HGetAll(context.Background(), "veh:"+v).Val()
		if got["soc"] != "51" || got["speed"] != "10.5" || got["on"] != "true" || got["name"] != "x" || got["old"] != "" ||
			got["_at"] != "2025-11-20T00:53:22.000Z" {
			t.Fatalf("hash %v", got)
		}
		r.Append(uplink(v, `{"ts":1763600003000,"soc":40}`))
		r.Settled()
		if soc := r.look.HGet(context.Background(), "veh:"+v, "soc").Val(); soc != "40" {
			t.Fatalf("soc %s after a newer message", soc)
		}
		r.Stop()
	})
}

// TestWrongClocksFreezeNoHash checks that a vehicle's or gateway's clock that was ahead does not block later updates.
func TestWrongClocksFreezeNoHash(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, addr string) {
		machine := clocktest.Still(time.UnixMilli(1_763_600_000_000))
		r := newRig(t, addr, stateRules)
		r.Stop()
		r.ChangeJournal(func(o *journal.Options) { o.Clock = machine.Source() })
		r.Open()
		const vehicle, timeless, mixed = "LTEST000000000001", "LTEST000000000002", "LTEST000000000003"
		send := func(v string, ahead time.Duration, n int) {
			machine.Pass(time.Second)
			r.Append(uplink(v, fmt.Sprintf(`{"ts":%d,"soc":%d}`, machine.Wall().Add(ahead).UnixMilli(), n)))
		}
		sendTimeless := func(v string, n int) { r.Append(uplink(v, fmt.Sprintf(`{"soc":%d}`, n))) }
		expect := func(what, v string, want int) {
			t.Helper()
			r.Settled()
			if got := r.look.HGet(context.Background(), "veh:"+v, "soc").Val(); got != fmt.Sprint(want) {
				t.Errorf("%s: soc %s, want %d", what, got, want)
			}
		}
		send(vehicle, 23*time.Hour, 1)
		send(vehicle, 22*time.Hour, 2)
		expect("order by a clock that is ahead", vehicle, 1)
		send(vehicle, 0, 3)
		expect("the vehicle's clock is put right", vehicle, 3)
		send(vehicle, -time.Hour, 4)
		expect("older", vehicle, 3)
		send(vehicle, time.Minute, 5)
		send(vehicle, 0, 6)
		expect("held up within bounds", vehicle, 5)
		for i, by := range []time.Duration{0, 10 * year, -10 * year, -time.Hour, time.Hour, -time.Second} {
			machine.Step(by)
			sendTimeless(timeless, i)
			expect(fmt.Sprint("without a time of its own, step by ", by), timeless, i)
		}
		for i, by := range []time.Duration{10 * year, time.Hour} {
			machine.Step(by)
			sendTimeless(mixed, 10+i)
			machine.Step(-by)
			send(mixed, 0, i)
			expect(fmt.Sprint("behind one without a time of its own from ", by, " ahead"), mixed, i)
		}
		r.Stop()
	})
}

const year = 365 * 24 * time.Hour

func TestEveryOperation(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, addr string) {
		r := newRig(t, addr, `
rules:
  - id: ops
    from: ["v1/+/up/telemetry"]
    to:
      - redis: {hash: "h:${vin}", set: {n: payload.n}, ttl: 1h}
      - redis: {string: "s:${vin}", value: payload.n, ttl: 1h}
      - redis: {stream: "x:${vin}", fields: payload, max_len: 1000}
      - redis: {set_add: "m", member: vin}
      - redis: {geo: "g", lon: payload.lon, lat: payload.lat, member: vin}
      - redis: {publish: "p:${vin}", value: payload.n}
`)
		ctx := context.Background()
		const v = "LTEST000000000001"
		sub := r.look.Subscribe(ctx, "p:"+v)
		defer func() { _ = sub.Close() }()
		_, err := sub.Receive(ctx)
		check.OK(t, err)
		r.Append(uplink(v, `{"n":7,"lon":121.4737,"lat":31.2304}`))
		r.Settled()
		if got := r.look.HGet(ctx, "h:"+v, "n").Val(); got != "7" {
			t.Errorf("hash %q", got)
		}
		if ttl := r.look.PTTL(ctx, "h:"+v).Val(); ttl <= 0 || ttl > time.Hour {
			t.Errorf("life time of the hash %v", ttl)
		}
		if got, ttl := r.look.Get(ctx, "s:"+v).Val(), r.look.PTTL(ctx, "s:"+v).Val(); got != "7" || ttl <= 0 {
			t.Errorf("string %q for %v", got, ttl)
		}
		if got := r.look.XRange(ctx, "x:"+v, "-", "+").Val(); len(got) != 1 || got[0].Values["n"] != "7" {
			t.Errorf("stream %v", got)
		}
		if !r.look.SIsMember(ctx, "m", v).Val() {
			t.Error("not in the set")
		}
		if pos := r.look.GeoPos(ctx, "g", v).Val(); len(pos) != 1 || pos[0] == nil || pos[0].Latitude < 31.2 || pos[0].Latitude > 31.3 {
			t.Errorf("position %v", pos)
		}
		select {
		case m := <-sub.Channel():
			if m.Payload != "7" {
				t.Errorf("published %q", m.Payload)
			}
		case <-time.After(time.Minute):
			t.Error("nothing published")
		}
		r.Stop()
	})
}

func TestWrongTypeIsADeadLetter(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, addr string) {
		r := newRig(t, addr, stateRules)
		ctx := context.Background()
		check.OK(t, r.look.Set(ctx, "veh:"+sinktest.VIN(3), "a string", 0).Err())
		r.Publish(0, 70)
		r.Settled()
		if l := r.Ledger("redis"); l.DeadLettered != 10 || l.Delivered != 60 {
			t.Fatalf("ledger %+v", l)
		}
		for _, m := range r.kafka.Taken() {
			if !m.Dead || m.VIN != sinktest.VIN(3) || m.Rule != "state" {
				t.Fatalf("dead letter %+v", m)
			}
		}
		r.Stop()
	})
}

func TestOutageLosesNothing(t *testing.T) {
	t.Parallel()
	mini := miniredis.RunT(t)
	r := newRig(t, mini.Addr(), `
rules:
  - id: list
    from: ["v1/+/up/telemetry"]
    to:
      - redis: {stream: "x:${vin}", fields: payload}
`)
	r.Publish(0, 100)
	r.Settled()
	mini.Close()
	r.Publish(100, 500)
	r.Await(func() bool { return !healthy(r) })
	if l := r.Ledger("redis"); l.Pending < 400 {
		t.Fatalf("ledger during the outage %+v", l)
	}
	check.OK(t, mini.Restart())
	r.Settled()
	r.Await(func() bool { return healthy(r) })
	for v := range 7 {
		last := -1
		for _, e := range r.look.XRange(context.Background(), "x:"+sinktest.VIN(v), "-", "+").Val() {
			n, _ := strconv.Atoi(fmt.Sprint(e.Values["n"]))
			if n > last+7 {
				t.Fatalf("vehicle %d: %d after %d", v, n, last)
			}
			last = max(last, n)
		}
		if last < 593 {
			t.Fatalf("vehicle %d ends at %d", v, last)
		}
	}
	r.Stop()
}

func healthy(r *rig) bool {
	for _, h := range r.Dispatcher.Health() {
		if h.Name == "redis" {
			return h.OK
		}
	}
	return false
}

// A worker whose messages were all skipped while Redis was away reports no failure, whether or not it gets another
// message.
func TestAgeOutLeavesRedisWell(t *testing.T) {
	t.Parallel()
	mini := miniredis.RunT(t)
	r := newRig(t, mini.Addr(), stateRules, func(o *sink.Options) {
		o.Sinks[1].WhenFull, o.Sinks[1].AgeOutBytes = sink.AgeOut, 8<<10
		o.Sinks[1].Limits.Messages = 64
	})
	mini.SetError("MASTERDOWN Link with MASTER is down")
	const others = 20
	for v := range others {
		r.Append(uplink(sinktest.VIN(v+1), `{"ts":1763600001000,"soc":50}`))
	}
	r.Await(func() bool { return !healthy(r) })
	for range 400 { // one vehicle, so one worker
		r.Append(uplink(sinktest.VIN(0), `{"ts":1763600001000,"soc":50}`))
	}
	r.Await(func() bool { return r.Ledger("redis").Dropped[sink.Retention] > 2*others })
	mini.SetError("")
	r.Settled()
	r.Await(func() bool { return healthy(r) })
	r.Stop()
}

func TestPassingErrorsAreTriedAgain(t *testing.T) {
	t.Parallel()
	mini := miniredis.RunT(t)
	r := newRig(t, mini.Addr(), stateRules)
	for _, reply := range []string{
		"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
		"OOM command not allowed when used memory > 'maxmemory'.", "NOAUTH Authentication required.",
		"MASTERDOWN Link with MASTER is down", "ERR max number of clients reached",
		"DENIED Redis is running in protected mode because protected mode is enabled",
	} {
		mini.SetError(reply)
		r.Publish(0, 20)
		r.Await(func() bool { return !healthy(r) })
		mini.SetError("")
		r.Settled()
	}
	if l := r.Ledger("redis"); l.DeadLettered != 0 || l.Delivered != 140 {
		t.Fatalf("ledger %+v", l)
	}
	mini.FlushAll() // removes the script too
	r.Publish(0, 20)
	r.Settled()
	r.Stop()
}

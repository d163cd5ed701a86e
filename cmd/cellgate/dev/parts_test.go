package dev

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
)

func startKafka(t *testing.T, dir string) *Kafka {
	t.Helper()
	k, err := StartKafka(t.Context(), "kafka.brokers", "127.0.0.1:0", dir, []string{"vehicle.telemetry"})
	check.OK(t, err)
	t.Cleanup(k.Close)
	return k
}

func produce(t *testing.T, addr, topic string, value string) {
	t.Helper()
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := kafka.Client{Addr: kafka.TCP(addr), Transport: transport}
	answer, err := client.Produce(t.Context(), &kafka.ProduceRequest{
		Topic: topic, Partition: 0, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(kafka.Record{Key: kafka.NewBytes([]byte("k")), Value: kafka.NewBytes([]byte(value))}),
	})
	if err != nil || answer.Error != nil {
		t.Fatalf("produce: %v, %+v", err, answer)
	}
}

// consume reads n values as a consumer group, and commits them.
func consume(t *testing.T, addr, topic, group string, n int) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{addr}, Topic: topic, GroupID: group, MaxWait: 100 * time.Millisecond, StartOffset: kafka.FirstOffset})
	defer r.Close() //nolint:errcheck // a test
	for range n {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		values = append(values, string(m.Value))
	}
	return values
}

// The state after a kill is the files at that moment: a copy of the folder, taken while the broker runs.
func TestKafkaSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := startKafka(t, dir)
	produce(t, k.Addr(), "vehicle.telemetry", "one")
	produce(t, k.Addr(), "vehicle.telemetry", "two")
	if got := consume(t, k.Addr(), "vehicle.telemetry", "g", 1); got[0] != "one" {
		t.Fatalf("read %v", got)
	}
	image := t.TempDir()
	check.OK(t, os.CopyFS(image, os.DirFS(dir)))
	again := startKafka(t, image)
	produce(t, again.Addr(), "vehicle.telemetry", "three")
	if got := consume(t, again.Addr(), "vehicle.telemetry", "g", 2); strings.Join(got, " ") != "two three" {
		t.Errorf("the group read on with %v, want two three", got)
	}
}

func TestTakenPortNamesTheSetting(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	defer ln.Close() //nolint:errcheck // a test
	addr := ln.Addr().String()
	_, err = StartKafka(t.Context(), "central.kafka.brokers", addr, t.TempDir(), nil)
	if err == nil || !strings.Contains(err.Error(), "central.kafka.brokers: "+addr+" is taken") || !strings.Contains(err.Error(), "--free-ports") {
		t.Errorf("kafka: %v", err)
	}
	_, err = startRedis("redis.addresses", addr, filepath.Join(t.TempDir(), "dump"))
	if err == nil || !strings.Contains(err.Error(), "redis.addresses: "+addr+" is taken") {
		t.Errorf("redis: %v", err)
	}
	_, err = startRedis("redis.addresses", "redis-1:6379", filepath.Join(t.TempDir(), "dump"))
	if err == nil || !strings.Contains(err.Error(), "cellgate run") {
		t.Errorf("a server elsewhere: %v", err)
	}
}

func TestRedisKeepsItsContents(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "redis", "dump")
	ctx := t.Context()
	start := func() (*Redis, *redis.Client) {
		r, err := startRedis("redis.addresses", "127.0.0.1:0", file)
		check.OK(t, err)
		c := redis.NewClient(&redis.Options{Addr: r.Addr()})
		t.Cleanup(func() { _ = c.Close() })
		return r, c
	}
	r, c := start()
	for _, err := range []error{
		c.Set(ctx, "s", "v\x00\xff", time.Hour).Err(),
		c.HSet(ctx, "h", "soc", "9", "_at", "1").Err(),
		c.RPush(ctx, "l", "a", "b").Err(),
		c.SAdd(ctx, "m", "x", "y").Err(),
		c.GeoAdd(ctx, "g", &redis.GeoLocation{Name: "V", Longitude: 121.4, Latitude: 31.2}).Err(),
		c.XAdd(ctx, &redis.XAddArgs{Stream: "x", ID: "5-1", Values: []string{"k", "v"}}).Err(),
		c.Set(ctx, "gone", "v", time.Millisecond).Err(),
	} {
		check.OK(t, err)
	}
	check.OK(t, r.Close())
	r, c = start()
	defer r.Close() //nolint:errcheck // a test
	if got := c.HGetAll(ctx, "h").Val(); got["soc"] != "9" || got["_at"] != "1" {
		t.Errorf("hash %v", got)
	}
	if got := c.LRange(ctx, "l", 0, -1).Val(); strings.Join(got, "") != "ab" {
		t.Errorf("list %v", got)
	}
	if got := c.SCard(ctx, "m").Val(); got != 2 {
		t.Errorf("set of %d", got)
	}
	if got := c.GeoPos(ctx, "g", "V").Val(); len(got) != 1 || got[0] == nil {
		t.Errorf("geo %v", got)
	}
	if got := c.XRange(ctx, "x", "-", "+").Val(); len(got) != 1 || got[0].Values["k"] != "v" {
		t.Errorf("stream %v", got)
	}
	if got := c.Get(ctx, "s").Val(); got != "v\x00\xff" {
		t.Errorf("string %q", got)
	}
	if ttl := c.TTL(ctx, "s").Val(); ttl < 59*time.Minute || ttl > time.Hour {
		t.Errorf("time to live %v", ttl)
	}
	check.Within(t, check.Patience, "the key to expire that had a millisecond to live", func() error {
		if n := c.Exists(ctx, "gone").Val(); n != 0 {
			return errors.New("it is there")
		}
		return nil
	})
}

func TestCertificatesAreMadeOnceAndVerify(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	check.OK(t, certificates(dir))
	read := func(name string) string {
		b := check.Read(t, filepath.Join(dir, name))
		return string(b)
	}
	ca, cert := read("ca.crt"), read("server.crt")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	check.OK(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ca))
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	check.OK(t, certificates(dir))
	if read("ca.crt") != ca || read("server.crt") != cert {
		t.Error("the second start made new certificates")
	}
	for name, want := range map[string]os.FileMode{"ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	check.OK(t, os.Remove(filepath.Join(dir, "server.crt")))
	if err := certificates(dir); err != nil || read("ca.crt") != ca {
		t.Errorf("a missing server certificate was not replaced under the same authority: %v", err)
	}
}

// TestPartsStopAndStart: a stopped part is degraded, its messages wait, and are delivered when it runs again.
func TestPartsStopAndStart(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	var list struct {
		Parts []struct {
			Name    string
			Running bool
		}
	}
	set := func(part string, running bool) {
		t.Helper()
		if code := g.call("POST", "/v1/dev/parts/"+part, g.operator, map[string]bool{"running": running}, &list); code != http.StatusOK {
			t.Fatalf("%s: %d", part, code)
		}
	}
	for _, part := range []string{"kafka", "redis", "centre"} {
		set(part, false)
		set(part, false) // it stays so
		for _, p := range list.Parts {
			if p.Name == part && p.Running {
				t.Errorf("%s still runs", part)
			}
		}
	}
	vin := fleet.VIN(12)
	send(g.connect(vin, g.vehicleToken(vin)), "v1/"+vin+"/up/telemetry", `{"soc": 9}`)
	check.Within(t, check.Patience, "degraded", func() error {
		var ready struct{ Degraded []struct{ Name string } }
		if g.call("GET", "/readyz", "", nil, &ready); len(ready.Degraded) < 3 {
			return fmt.Errorf("%+v", ready)
		}
		return nil
	})
	for _, part := range []string{"redis", "centre", "kafka"} {
		set(part, true)
	}
	g.awaitRecords(g.Cell.Addr(), "vehicle.telemetry", vin, 1)
	g.awaitRecords(g.Central.Addr(), "fleet.alerts", vin, 1)
	g.assertLedger()
	if code := g.call("POST", "/v1/dev/parts/journal", g.operator, map[string]bool{"running": false}, nil); code != http.StatusNotFound {
		t.Errorf("a part that is none: %d", code)
	}
}

package dev

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"cellgate/auth"
	"cellgate/test/logbuf"
)

// gateway is a running dev with what tests ask of it.
type gateway struct {
	*Dev
	t        *testing.T
	log      *logbuf.Buffer
	operator string
}

func start(t *testing.T, data string) *gateway {
	t.Helper()
	g := &gateway{t: t, log: &logbuf.Buffer{}}
	d, err := Start(t.Context(), Options{Data: data, FreePorts: true, Log: g.log})
	if err != nil {
		t.Fatal(err)
	}
	g.Dev = d
	t.Cleanup(func() {
		g.stop()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", g.log)
		}
	})
	g.operator = g.issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	return g
}

func (g *gateway) stop() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := g.Stop(ctx); err != nil {
		g.t.Errorf("stop: %v", err)
	}
}

func (g *gateway) issue(r auth.IssueRequest) string {
	g.t.Helper()
	token, _, err := g.App.Authority().Issue(r)
	if err != nil {
		g.t.Fatal(err)
	}
	return token
}

func (g *gateway) vehicleToken(vin string) string {
	return g.issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle})
}

// client is an MQTT 5 client over TLS.
type client struct {
	*paho.Client
	messages chan *paho.Publish
	closed   chan struct{}
}

func (g *gateway) connect(vin, token string) *client {
	g.t.Helper()
	pem, err := os.ReadFile(filepath.Join(g.Data, "tls", "ca.crt"))
	if err != nil {
		g.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", g.App.Addrs()["vehicles"].String(), &tls.Config{RootCAs: pool, ServerName: "localhost"}) //nolint:gosec // the default minimum is 1.2
	if err != nil {
		g.t.Fatal(err)
	}
	c := &client{messages: make(chan *paho.Publish, 16), closed: make(chan struct{})}
	var once sync.Once
	end := func() { once.Do(func() { close(c.closed) }) }
	c.Client = paho.NewClient(paho.ClientConfig{
		// paho writes a packet in several pieces, and its pings from a goroutine of their own.
		ClientID: vin, Conn: packets.NewThreadSafeConn(conn), OnClientError: func(error) { end() }, OnServerDisconnect: func(*paho.Disconnect) { end() },
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			c.messages <- r.Packet
			return true, nil
		}},
	})
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	ack, err := c.Connect(ctx, &paho.Connect{
		ClientID: vin, CleanStart: true, KeepAlive: 30, Username: vin, UsernameFlag: true, Password: []byte(token), PasswordFlag: true,
	})
	if err != nil {
		g.t.Fatalf("connect: %v, %+v", err, ack)
	}
	g.t.Cleanup(func() { _ = c.Disconnect(&paho.Disconnect{}); _ = conn.Close() })
	return c
}

func (c *client) publish(t *testing.T, topic, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := c.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte(payload)}); err != nil {
		t.Fatalf("publish %s: %v, %+v", topic, err, r)
	}
}

// refusedPublish goes to a topic of another vehicle.
func refusedPublish() *paho.Publish {
	return &paho.Publish{Topic: "v1/LTEST000000000009/up/telemetry", QoS: 1, Payload: []byte("{}")}
}

func (g *gateway) redis() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: g.Redis.Addr()})
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// records reads all records of a topic that have the key.
func records(ctx context.Context, addr, topic, key string) ([]kafka.Message, error) {
	var all []kafka.Message
	for p := range Partitions {
		conn, err := kafka.DialLeader(ctx, "tcp", addr, topic, p)
		if err != nil {
			return nil, err
		}
		found, err := partition(conn, key)
		if err = errors.Join(err, conn.Close()); err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func partition(conn *kafka.Conn, key string) (found []kafka.Message, err error) {
	first, last, err := conn.ReadOffsets()
	if err != nil || first == last {
		return nil, err
	}
	if _, err := conn.Seek(first, kafka.SeekAbsolute); err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for at := first; at < last; {
		m, err := conn.ReadMessage(1 << 20)
		if err != nil {
			return nil, err
		}
		at = m.Offset + 1
		if string(m.Key) == key {
			found = append(found, m)
		}
	}
	return found, nil
}

// awaitRecords waits for n records.
func (g *gateway) awaitRecords(addr, topic, key string, n int) []kafka.Message {
	g.t.Helper()
	var found []kafka.Message
	eventually(g.t, fmt.Sprintf("%d records of %s in %s", n, key, topic), func() (err error) {
		if found, err = records(g.t.Context(), addr, topic, key); err == nil && len(found) < n {
			err = fmt.Errorf("%d so far", len(found))
		}
		return err
	})
	return found
}

func headers(m kafka.Message) map[string]string {
	h := make(map[string]string)
	for _, e := range m.Headers {
		h[e.Key] = string(e.Value)
	}
	return h
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// call calls the HTTP API and decodes a JSON answer into out unless nil.
func (g *gateway) call(method, path, token string, body, out any) int {
	g.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			g.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.App.HTTPURL()+path, in)
	if err != nil {
		g.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read below
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			g.t.Fatalf("%s %s: %d %s: %v", method, path, resp.StatusCode, answer, err)
		}
	}
	return resp.StatusCode
}

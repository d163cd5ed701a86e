package dev

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// gateway is a running dev with what tests ask of it.
type gateway struct {
	*Dev
	t        *testing.T
	log      *check.Log
	operator string
}

func start(t *testing.T, data string) *gateway {
	t.Helper()
	g := &gateway{t: t}
	g.Dev, g.log = harness.Serve(t, func(ctx context.Context, log io.Writer) (*Dev, error) {
		return Start(ctx, Options{Data: data, FreePorts: true, Log: log})
	})
	g.operator = g.issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	return g
}

func (g *gateway) stop() {
	g.t.Helper()
	check.Ended(g.t, g.Stop)
}

func (g *gateway) issue(r auth.IssueRequest) string {
	g.t.Helper()
	token, _, err := g.App.Authority().Issue(r)
	check.OK(g.t, err)
	return token
}

func (g *gateway) vehicleToken(vin string) string {
	return g.issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle})
}

// connect connects a vehicle over TLS and MQTT 5.
func (g *gateway) connect(vin, token string) *mqtt.T {
	g.t.Helper()
	pem := check.Read(g.t, filepath.Join(g.Data, "tls", "ca.crt"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	c := mqtt.DialT(g.t, g.App.Addrs()["vehicles"].String(), mqtt.V5, config)
	c.Open(mqtt.Connect{ID: vin, User: vin, Password: token, Keepalive: 600})
	return c
}

func send(c *mqtt.T, topic, payload string) {
	c.TB.Helper()
	c.Publish(mqtt.Publish{Topic: topic, Payload: payload, QoS: 1})
}

func (g *gateway) redis() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: g.Redis.Addr()})
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// awaitRecords waits for n records with the key.
func (g *gateway) awaitRecords(addr, topic, key string, n int) (found []harness.Record) {
	g.t.Helper()
	check.Within(g.t, check.Patience, fmt.Sprintf("%d records of %s in %s", n, key, topic), func() error {
		all, err := harness.ReadTopic(g.t.Context(), []string{addr}, topic)
		found = slices.DeleteFunc(all, func(r harness.Record) bool { return r.Key != key })
		if err == nil && len(found) < n {
			err = fmt.Errorf("%d so far", len(found))
		}
		return err
	})
	return found
}

// call calls the HTTP API and decodes a JSON answer into out unless nil.
func (g *gateway) call(method, path, token string, body, out any) int {
	g.t.Helper()
	status, _, answer, err := harness.Call(g.t.Context(), method, g.App.HTTPURL()+path, token, body)
	check.OK(g.t, err)
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			g.t.Fatalf("%s %s: %d %s: %v", method, path, status, answer, err)
		}
	}
	return status
}

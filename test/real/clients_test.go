//go:build real

package real

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// library is a foreign client on one version of the protocol.
type library struct {
	name    string
	version int // 4: MQTT 3.1.1, 5
	start   func(*testing.T, job) *running
	wss     bool // it speaks WebSocket
	// codes5: it shows the return codes of 3.1.1 as reason codes of MQTT 5.
	codes5 bool
	// present: it shows SESSION PRESENT. reference: it shows the Server Reference, in CONNACK too with refusedTo.
	present, reference, refusedTo bool
	// silent: it does not report a lost connection before it has reconnected.
	silent bool
}

func libraries() []library {
	return []library{
		{name: "paho.golang (autopaho)", version: 5, start: startAutopaho, wss: true, present: true, reference: true},
		{name: "paho.mqtt.golang", version: 4, start: startPaho3, wss: true, present: true},
		{name: "mosquitto_pub, _sub", version: 4, start: startMosquitto, silent: true},
		{name: "mosquitto_pub, _sub", version: 5, start: startMosquitto},
		{name: "paho-mqtt (Python)", version: 4, start: startPython, wss: true, codes5: true, present: true},
		{name: "paho-mqtt (Python)", version: 5, start: startPython, wss: true, present: true, reference: true, refusedTo: true},
		{name: "MQTT.js", version: 4, start: startNode, wss: true, present: true},
		{name: "MQTT.js", version: 5, start: startNode, wss: true, present: true, reference: true, refusedTo: true},
	}
}

func (l library) String() string { return l.name + " " + l.speaks() }

func (l library) speaks() string {
	if l.version == 5 {
		return "5"
	}
	return "3.1.1"
}

// code returns the library's code for a refusal.
func (l library) code(return311, reason5 int) int {
	if l.version == 5 || l.codes5 {
		return reason5
	}
	return return311
}

// cell is two gateways of one cell, with one set of keys, and the tests' state.
type cell struct {
	a, b              *harness.Gateway
	web               string // address at a of WebSocket over TLS
	kafka             *harness.Kafka
	operator, service string // tokens

	mu     sync.Mutex           // guards below
	want   map[delivery]int     // expected in Kafka
	sender map[string]string    // the test of a vehicle
	moved  []string             // vehicles that published once at each gateway
	result map[string][]verdict // by library
}

// delivery is a Kafka topic and a vehicle.
type delivery struct{ topic, vin string }

type verdict struct {
	feature string
	failed  bool
}

// TestClients runs MQTT clients of other projects against the gateway, in every version that they support: over TLS,
// with tokens.
func TestClients(t *testing.T) {
	c := startCell(t)
	t.Cleanup(func() { fmt.Print(c.table()) })
	t.Run("alone", func(t *testing.T) {
		for _, l := range libraries() {
			t.Run(l.String(), func(t *testing.T) {
				t.Parallel()
				for _, f := range features() {
					if f.wss && !l.wss {
						continue
					}
					c.run(t, l, f.name, func(t *testing.T) { f.test(t, &caller{c, l}) })
				}
			})
		}
	})
	t.Run("redirect", func(t *testing.T) { redirect(t, c) })
	t.Run("Kafka", func(t *testing.T) { c.audit(t) })
}

// startCell starts the gateways a and b, with one certificate and one folder of keys.
func startCell(t *testing.T) *cell {
	t.Helper()
	versions := harness.KafkaVersions()
	c := &cell{
		kafka: harness.ApacheKafka(t, versions[len(versions)-1], 1), web: harness.FreeAddr(t),
		want: map[delivery]int{}, sender: map[string]string{}, result: map[string][]verdict{},
	}
	keys := "keys_dir: " + t.TempDir()
	redis := harness.EmbeddedRedis(t)
	web := fmt.Sprintf("{name: web, address: %q, protocol: ws, tls: {cert: tls/server.crt, key: tls/server.key}}", c.web)
	c.a = harness.PrepareGateway(t, harness.Options{Kafka: c.kafka, Redis: redis, Auth: keys, Node: "gw-a", Several: true, Listeners: []string{web}})
	c.b = harness.PrepareGateway(t, harness.Options{Kafka: c.kafka, Redis: redis, Auth: keys, Node: "gw-b", Several: true})
	check.OK(t, os.RemoveAll(filepath.Join(c.b.Dir, "tls")))
	check.OK(t, os.CopyFS(filepath.Join(c.b.Dir, "tls"), os.DirFS(filepath.Join(c.a.Dir, "tls"))))
	c.a.Start()
	c.b.Start()
	c.operator = c.a.OperatorToken()
	check.Within(t, time.Minute, "the new cell takes commands", func() error {
		status, answer, err := c.a.Do(http.MethodPost, "/v1/vehicles/LTESTEV1XTA009999/commands", c.operator, map[string]any{"id": "first", "name": "wake"})
		if err == nil && status != http.StatusAccepted {
			err = fmt.Errorf("%d %s", status, answer) //nolint:err113 // a test's
		}
		return err
	})
	c.service = c.a.Cellgate("token", "issue", "--config", c.a.Config, "--service", "watch", "--scope", "telemetry:read")
	return c
}

// run runs one test of a library and records its result.
func (c *cell) run(t *testing.T, l library, feature string, test func(*testing.T)) {
	t.Helper()
	ok := t.Run(feature, test)
	c.note(l, feature, !ok)
}

func (c *cell) note(l library, feature string, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result[l.String()] = append(c.result[l.String()], verdict{feature, failed})
}

// expect records that a vehicle has sent n more messages that must be in Kafka exactly once.
func (c *cell) expect(t *testing.T, topic, vin string, n int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want[delivery{topic, vin}] += n
	c.sender[vin] = t.Name()
}

// token issues a vehicle's token.
func (c *cell) token(t *testing.T, vin string) string {
	t.Helper()
	status, body, err := c.a.Do(http.MethodPost, "/v1/tokens", c.operator, map[string]string{"vin": vin})
	var answer struct{ Token string }
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil || answer.Token == "" {
		t.Fatalf("token for %s: %d %s %v", vin, status, body, err)
	}
	return answer.Token
}

// table returns the results, a line per client and version.
func (c *cell) table() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	columns := []string{"redirect", "stop"}
	for i, f := range features() {
		columns = slices.Insert(columns, i, f.name)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "client\tversion\t%s\n", strings.Join(columns, "\t"))
	for _, l := range libraries() {
		_, _ = fmt.Fprintf(w, "%s\t%s", l.name, l.speaks())
		for _, column := range columns {
			cell := "-"
			for _, v := range c.result[l.String()] {
				if v.feature == column {
					cell = "ok"
				}
			}
			for _, v := range c.result[l.String()] {
				if v.feature == column && v.failed {
					cell = "FAILED"
				}
			}
			_, _ = fmt.Fprintf(w, "\t%s", cell)
		}
		_, _ = fmt.Fprintln(w)
	}
	_ = w.Flush()
	return b.String()
}

// audit checks the clients' messages: each is in Kafka once, in order per vehicle.
func (c *cell) audit(t *testing.T) {
	check.Within(t, patience, "everything delivered", func() error { return c.b.Settled(c.operator) })
	records := map[delivery][]harness.Record{}
	for _, topic := range []string{"vehicle.telemetry", "vehicle.alerts"} {
		for _, r := range c.kafka.Read(topic) {
			records[delivery{topic, r.Key}] = append(records[delivery{topic, r.Key}], r)
		}
	}
	c.auditMoved(t, records)
	total := 2 * len(c.moved)
	for d, want := range c.want {
		total += want
		ids := map[string]bool{}
		for i, r := range records[d] {
			ids[r.Headers["msg-id"]] = true
			var payload struct{ N *int }
			if err := json.Unmarshal(r.Value, &payload); err != nil || payload.N == nil || *payload.N != i {
				t.Errorf("%s of %s (%s): record %d is %s (%v)", d.topic, d.vin, c.sender[d.vin], i, r.Value, err)
			}
		}
		if len(records[d]) != want || len(ids) != want {
			t.Errorf("%s of %s (%s): %d records with %d msg-ids, want %d", d.topic, d.vin, c.sender[d.vin], len(records[d]), len(ids), want)
		}
	}
	fmt.Printf("Kafka holds %d messages of foreign clients, each once and in order\n", total)
}

// caller is a library in a test.
type caller struct {
	*cell
	library
}

// vehicle returns a job for a new vehicle.
func (c *caller) vehicle(t *testing.T) job {
	t.Helper()
	vin := scenario.NewVIN()
	return c.job(vin, vin, c.token(t, vin))
}

// watcher returns a job for a service that receives one vehicle's messages.
func (c *caller) watcher() job {
	return c.job("watch/"+scenario.NewVIN(), "watch", c.service)
}

func (c *caller) job(id, user, password string) job {
	return job{
		Version: c.version, Transport: "tls", Address: c.a.MQTTS, CA: c.a.CAFile(), Clean: true,
		ClientID: id, User: user, Password: password,
	}
}

// up returns n messages of a vehicle at one QoS, numbered from first.
func up(vin, class string, qos byte, first, n int) []letter {
	list := make([]letter, n)
	for i := range list {
		list[i] = letter{fmt.Sprintf("v1/%s/up/%s", vin, class), fmt.Sprintf(`{"n":%d,"qos":%d}`, first+i, qos), qos}
	}
	return list
}

// command sends a command to a vehicle over HTTP and returns its id.
func (c *cell) command(t *testing.T, g *harness.Gateway, vin, name string) string {
	t.Helper()
	status, body, err := g.Do(http.MethodPost, "/v1/vehicles/"+vin+"/commands", c.operator, map[string]any{"name": name, "payload": map[string]string{"name": name}})
	var sent scenario.Command
	if err == nil {
		err = json.Unmarshal(body, &sent)
	}
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("command %s: %d %s %v", name, status, body, err)
	}
	return sent.ID
}

// delivered waits until the client has acknowledged the command.
func (c *cell) delivered(t *testing.T, g *harness.Gateway, vin, id string) {
	t.Helper()
	check.Within(t, patience, "command delivered", func() error {
		_, body, err := g.Get("/v1/vehicles/"+vin+"/commands/"+id, c.operator)
		var now scenario.Command
		if err = cmp.Or(err, json.Unmarshal(body, &now)); err != nil || now.State != "delivered" {
			return fmt.Errorf("%s: %w", body, cmp.Or(err, fmt.Errorf("state %q", now.State)))
		}
		return nil
	})
}

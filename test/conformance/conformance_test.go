package conformance

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cellgate/test/harness"
)

// TestMain lets more tests wait at once than there are processors: most of their time is the gateway's.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// env is the gateway under test, which all tests share.
type env struct {
	g        *harness.Gateway
	lab      string // no token, role lab: publishes and subscribes everywhere
	tokens   string // takes tokens only
	vehicles string // no token, role vehicle
	ws       string // WebSocket, role lab
	last     atomic.Int64
}

// What the gateway under test is configured with.
const (
	window    = 20        // limits what a client may have unacknowledged
	maxPacket = 200 << 10 // largest packet
	aliases   = 16        // topic alias maximum, the gateway's own
	denied    = "test/nosubscribe"
	deniedPub = "test/nopublish"
)

// configuration takes the addresses of http, tokens, lab, vehicles, ws and of a Kafka and a Redis that are
// not there.
const configuration = `cell: {id: cell-test-01, node: gw-1}
data_dir: data
http: {address: %q}
listeners:
  - {name: tokens, address: %q}
  - {name: lab, address: %q, anonymous_role: lab}
  - {name: vins, address: %q, anonymous_role: vehicle}
  - {name: ws, address: %q, protocol: ws, anonymous_role: lab}
kafka: {brokers: [%q]}
redis: {addresses: [%q]}
auth:
  roles:
    lab: {publish: ["#"], subscribe: ["#"], deny_publish: [%q], deny_subscribe: [%q]}
uplink: {window: %d}
limits: {max_packet: %dB, messages_per_second: 0, bytes_per_second: 0, connect_rate: 0}
rules: {path: rules}
`

func start(t *testing.T) *env {
	t.Helper()
	g := harness.PrepareGateway(t, harness.Options{NoRules: true})
	e := &env{g: g, lab: g.Lab, tokens: g.MQTT, vehicles: harness.FreeAddr(t), ws: harness.FreeAddr(t)}
	yaml := fmt.Sprintf(configuration, g.HTTP, e.tokens, e.lab, e.vehicles, e.ws, harness.FreeAddr(t), harness.FreeAddr(t),
		deniedPub, denied, window, maxPacket)
	if err := os.WriteFile(g.Config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	g.Start()
	return e
}

// unique is a client identifier, or a part of a topic, that no other test uses.
func (e *env) unique() string { return fmt.Sprintf("c%d", e.last.Add(1)) }

// testCase is one named test; it runs once per protocol version.
type testCase struct {
	name     string
	versions []byte
	run      func(t *testing.T, e *env, v byte)
}

func both(name string, run func(t *testing.T, e *env, v byte)) testCase {
	return testCase{name, []byte{v4, v5}, run}
}

func only(v byte, name string, run func(t *testing.T, e *env, v byte)) testCase {
	return testCase{name, []byte{v}, run}
}

func allCases() []testCase {
	return slices.Concat(formatCases(), connectCases(), sessionCases(), willCases(), publishCases(), retainCases(),
		qosCases(), resendCases(), subscribeCases(), sharedCases(), topicCases(), flowCases(), propertyCases(),
		disconnectCases(), authCases(), websocketCases())
}

// TestConformance runs every test against one gateway, and then holds the table against what ran.
func TestConformance(t *testing.T) {
	e := start(t)
	cases := allCases()
	var mu sync.Mutex
	ran := map[string]bool{}
	t.Run("mqtt", func(t *testing.T) {
		for _, c := range cases {
			for _, v := range c.versions {
				t.Run(caseName(c.name, v), func(t *testing.T) {
					t.Parallel()
					c.run(t, e, v)
					mu.Lock()
					ran[caseName(c.name, v)] = true
					mu.Unlock()
				})
			}
		}
	})
	t.Run("table", func(t *testing.T) {
		checkTable(t, cases)
		if f := flag.Lookup("test.run"); f != nil && strings.Contains(f.Value.String(), "/") {
			return // a selection: not everything ran
		}
		for _, row := range table() {
			if row.Test != "" && !ran[caseName(row.Test, row.Version)] {
				t.Errorf("%s of %s: the test %s did not run to its end", row.ID, versionName(row.Version), row.Test)
			}
		}
	})
}

func caseName(name string, v byte) string { return name + "/" + versionName(v) }

func versionName(v byte) string {
	if v == v4 {
		return "3.1.1"
	}
	return "5.0"
}

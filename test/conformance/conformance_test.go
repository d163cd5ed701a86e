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
	"cellgate/test/mqtt"
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

// Settings of the gateway under test.
const (
	window    = 20        // limits what a client may have unacknowledged
	maxPacket = 200 << 10 // largest packet
	aliases   = 16        // topic alias maximum, the gateway's own
	denied    = "test/nosubscribe"
	deniedPub = "test/nopublish"
)

func start(t *testing.T) *env {
	t.Helper()
	e := &env{vehicles: harness.FreeAddr(t), ws: harness.FreeAddr(t)}
	e.g = harness.StartGateway(t, harness.Options{
		NoRules: true, LabRole: "lab",
		Auth: fmt.Sprintf(`roles: {lab: {publish: ["#"], subscribe: ["#"], deny_publish: [%q], deny_subscribe: [%q]}}`, deniedPub, denied),
		Listeners: []string{
			fmt.Sprintf("{name: vins, address: %q, anonymous_role: vehicle}", e.vehicles),
			fmt.Sprintf("{name: ws, address: %q, protocol: ws, anonymous_role: lab}", e.ws),
		},
		Extra: fmt.Sprintf("uplink: {window: %d}\nlimits: {max_packet: %dB, messages_per_second: 0, bytes_per_second: 0, connect_rate: 0}\n",
			window, maxPacket),
	})
	e.lab, e.tokens = e.g.Lab, e.g.MQTT
	return e
}

// unique returns a client identifier, or a part of a topic, that no other test uses.
func (e *env) unique() string { return fmt.Sprintf("c%d", e.last.Add(1)) }

// dial opens a connection to the listener lab without sending anything.
func (e *env) dial(t *testing.T, version byte) *mqtt.T { return e.dialTo(t, version, e.lab) }

func (e *env) dialTo(t *testing.T, version byte, address string) *mqtt.T {
	t.Helper()
	return mqtt.DialT(t, address, version, nil)
}

// client connects with a clean session and a client identifier of its own.
func (e *env) client(t *testing.T, version byte, props ...[]byte) *mqtt.T {
	t.Helper()
	c, _ := e.open(t, mqtt.Connect{Version: version, ID: e.unique(), Props: props})
	return c
}

// open sends the CONNECT and expects to be accepted.
func (e *env) open(t *testing.T, o mqtt.Connect) (*mqtt.T, mqtt.Packet) {
	t.Helper()
	c := e.dial(t, o.Version)
	return c, c.Open(o)
}

// refused sends a first packet and expects a refusal: on MQTT 5 with one of the reasons or without an answer, on 3.1.1
// without one.
func (e *env) refused(t *testing.T, version byte, first []byte, reasons ...byte) {
	t.Helper()
	c := e.dial(t, version)
	c.Send(first)
	p, err := c.Read()
	if err != nil {
		c.CheckEnd(err)
		return
	}
	if p.Type != mqtt.CONNACK || version != mqtt.V5 || !slices.Contains(reasons, p.Reason) || p.Present != 0 {
		t.Errorf("answer of type %d, reason 0x%02X, flags %d", p.Type, p.Reason, p.Present)
	}
	c.ExpectClosed()
}

// equal reports a difference.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, show(got), show(want))
	}
}

func equalList[T comparable](t *testing.T, what string, got []T, want ...T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, show(got), show(want))
	}
}

func show(v any) string { return fmt.Sprintf("%#v", v) }

// testCase is one named test; it runs once per protocol version.
type testCase struct {
	name     string
	versions []byte
	run      func(t *testing.T, e *env, v byte)
}

func both(name string, run func(t *testing.T, e *env, v byte)) testCase {
	return testCase{name, []byte{mqtt.V4, mqtt.V5}, run}
}

func only(v byte, name string, run func(t *testing.T, e *env, v byte)) testCase {
	return testCase{name, []byte{v}, run}
}

func allCases() []testCase {
	return slices.Concat(formatCases(), connectCases(), sessionCases(), willCases(), publishCases(), retainCases(),
		qosCases(), resendCases(), subscribeCases(), sharedCases(), topicCases(), flowCases(), propertyCases(),
		disconnectCases(), authCases(), websocketCases())
}

// TestConformance runs every test against one gateway, and then compares the table with what ran.
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
	if v == mqtt.V4 {
		return "3.1.1"
	}
	return "5.0"
}

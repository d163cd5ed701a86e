package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	mqtt3 "github.com/eclipse/paho.mqtt.golang"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestReconnectNotice: a vehicle on 3.1.1, which has no DISCONNECT from the server, gets its next address on
// v1/{vin}/sys/reconnect before its connection ends: when an operator redirects it, in a drain, and when the gateway
// stops during a drain.
func TestReconnectNotice(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	operator := g.OperatorToken()
	const endpoint = "gw-2.example:8883"
	do := func(method, path string, body any) {
		t.Helper()
		if status, answer, err := g.Do(method, path, operator, body); err != nil || status/100 != 2 {
			t.Fatalf("%s %s: %d %s %v", method, path, status, answer, err)
		}
	}
	first, second, third := listen(t, g), listen(t, g), listen(t, g)
	do(http.MethodDelete, "/v1/vehicles/"+first.vin+"/connection", map[string]string{"endpoint": endpoint})
	first.await(t, endpoint, "administrative")
	do(http.MethodPost, "/v1/drain", map[string]any{"rate": 1000, "endpoint": endpoint})
	second.await(t, endpoint, "drain")
	third.await(t, endpoint, "drain")
	do(http.MethodDelete, "/v1/drain", nil)
	late := listen(t, g) // the drain would reach it after 1,000 s
	do(http.MethodPost, "/v1/drain", map[string]any{"rate": 0.001, "endpoint": endpoint})
	g.Signal(syscall.SIGTERM)
	late.await(t, endpoint, "shutdown")
}

// listener is a vehicle that subscribes to its own sys topics.
type listener struct {
	vin    string
	notice chan []byte
	lost   <-chan struct{}
}

func listen(t *testing.T, g *harness.Gateway) listener {
	t.Helper()
	l := listener{vin: scenario.NewVIN(), notice: make(chan []byte, 8)}
	c, lost, err := scenario.DialV3(t, g, l.vin, g.VehicleToken(l.vin))
	check.OK(t, err)
	l.lost = lost
	take := func(_ mqtt3.Client, m mqtt3.Message) { l.notice <- m.Payload() }
	if token := c.Subscribe("v1/"+l.vin+"/sys/#", 1, take); !token.WaitTimeout(check.Patience) || token.Error() != nil {
		t.Fatalf("subscribe: %v", token.Error())
	}
	return l
}

func (l *listener) await(t *testing.T, endpoint, reason string) {
	t.Helper()
	limit := time.After(check.Patience)
	select {
	case <-l.lost:
	case <-limit:
		t.Fatalf("%s: the connection is still there", reason)
	}
	select {
	case payload := <-l.notice:
		want := fmt.Sprintf(`{"endpoint":%q,"reason":%q}`, endpoint, reason)
		if !json.Valid(payload) || string(payload) != want {
			t.Errorf("notice %s, want %s", payload, want)
		}
	case <-limit:
		t.Fatalf("%s: no notice", reason)
	}
}

package authtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// drive runs a fleet for a second in which all of its vehicles are connected.
func drive(t *testing.T, g *harness.Gateway, more ...string) fleet.Report {
	t.Helper()
	args := append([]string{"fleet", "--config", g.Config, "--broker", g.MQTT, "--rate", "0.5", "--json", "--wait-connected", "--duration", "1s"}, more...)
	return harness.FleetReport(t, g.Cellgate(args...))
}

// unrefused checks that the gateway has accepted everything from the fleet.
func unrefused(t *testing.T, r fleet.Report) {
	t.Helper()
	if r.ConnectRefused+r.Refused != 0 || r.Acknowledged == 0 || r.Acknowledged+r.Unacknowledged != r.Published {
		t.Errorf("%+v", r)
	}
}

// TestRotationUnderLoad rotates keys while 500 vehicles are repeatedly disconnected and return. No vehicle may be
// refused, with a token of an older key or of the newest.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const vehicles, rounds = 500, 2
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: "limits: {connect_rate: 0}\nlog: {level: warn}\n"})
	operator := issuerOf(t, g).operator()
	driving := g.Fleet("fleet", "--broker", g.MQTT, "--rate", "0.5", "--reconnect-max", "100ms", "--json", "--vehicles", fmt.Sprint(vehicles), "--connect-rate", "2000")
	thrown := uint64(0)
	for range rounds {
		check.Within(t, time.Minute, "all vehicles are connected", func() error { return connected(g, operator, vehicles) })
		g.Cellgate("token", "rotate", "--config", g.Config)
		for n := range vehicles {
			status, body, err := g.Do("DELETE", "/v1/vehicles/"+fleet.VIN(n)+"/connection", operator, nil)
			if err != nil || status >= 500 {
				t.Fatalf("disconnect: %d %s, %v", status, body, err)
			}
			if status < 300 {
				thrown++
			}
		}
	}
	check.Within(t, time.Minute, "all vehicles are connected again", func() error { return connected(g, operator, vehicles) })
	// The newest key signs 10 s after its rotation. Vehicles that get their tokens then use the same gateway.
	check.Within(t, time.Minute, "the newest key signs", func() error { return signing(g) })
	late := drive(t, g, "--vehicles", "50", "--first", "1000")
	r := harness.EndFleet(t, driving)
	unrefused(t, r)
	unrefused(t, late)
	if thrown < vehicles || r.Reconnects < thrown {
		t.Errorf("%d were thrown off, and there were %d reconnects: %+v", thrown, r.Reconnects, r)
	}
	t.Logf("%+v, then by the newest key %+v", r, late)
}

func connected(g *harness.Gateway, operator string, want int) error {
	_, body, err := g.Get("/v1/status", operator)
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`"connections":\s*(\d+)`).FindSubmatch(body)
	if m == nil || string(m[1]) != fmt.Sprint(want) {
		return fmt.Errorf("%.200s", body)
	}
	return nil
}

// signing returns nil once the newest key signs.
func signing(g *harness.Gateway) error {
	var keys []auth.KeyInfo
	out := g.Cellgate("token", "rotate", "--list", "--config", g.Config, "--json")
	if err := json.Unmarshal([]byte(out), &keys); err != nil {
		return err
	}
	if !keys[len(keys)-1].Signing {
		return errors.New("not yet")
	}
	return nil
}

// TestEverythingAway checks that vehicles connect and publish, and tokens are issued, while Kafka, Redis and the centre
// are away for the whole run, also across a kill -9.
func TestEverythingAway(t *testing.T) {
	t.Parallel()
	ca := harness.NewAuthority(t)
	g := harness.StartGateway(t, harness.Options{VehicleCA: ca, // and the sample rules, whose sinks are all away
		Extra: fmt.Sprintf("central: {kafka: {brokers: [%q]}}\n", harness.FreeAddr(t))})
	operator := issuerOf(t, g).operator()
	for round := range 2 {
		cert := ca.Vehicle(t, vinA, true)
		got, err := call(t, g, &cert, 0, "POST", "/v1/tokens", "")
		if err != nil || got.status != 201 {
			t.Fatalf("by certificate: %+v, %v", got, err)
		}
		status, body, err := g.Do("POST", "/v1/tokens", operator, map[string]any{"vin": vinB})
		var other answer
		if err != nil || status != 201 || json.Unmarshal(body, &other) != nil {
			t.Fatalf("by an operator: %d %s, %v", status, body, err)
		}
		for vin, c := range map[string]connect{vinA: {password: got.Token, version: 5}, vinB: {password: other.Token, version: 4}} {
			c.id = vin
			m := mustOpen(t, g.MQTT, c)
			for n := range 20 {
				m.Publish(mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", Payload: fmt.Sprintf(`{"seq":%d}`, n), QoS: 1})
			}
			sendDisconnect(m)
		}
		unrefused(t, drive(t, g, "--vehicles", "20"))
		for _, name := range []string{"kafka", "redis", "central"} {
			check.Eventually(t, name+" is known to be away", func() bool {
				_, ready, err := g.Get("/readyz", "")
				return err == nil && strings.Contains(string(ready), strconv.Quote(name))
			})
		}
		if round == 0 {
			g.Kill()
			g.Start()
		}
	}
}

// TestDevPrintsNoToken checks that the banner of `cellgate dev` says how to get an operator's token, and contains none.
func TestDevPrintsNoToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := harness.StartProcess(t, "dev", dir, nil, harness.Binary(t), "dev", "--data", filepath.Join(dir, "data"), "--vehicles", "1", "--free-ports")
	command := regexp.MustCompile(`token issue .*--operator \w+`)
	check.Eventually(t, "banner", func() bool { return command.MatchString(p.Tail(1000)) })
	token, err := harness.RunCellgate(t, dir, strings.Fields(strings.TrimSuffix(command.FindString(p.Tail(1000)), ")"))...)
	if err != nil || !strings.HasPrefix(token, "eyJ") {
		t.Fatalf("the banner's command printed %q, %v", token, err)
	}
	if err := p.Stop(check.Patience); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.Tail(100_000), "eyJ") {
		t.Error("dev has printed a token")
	}
}

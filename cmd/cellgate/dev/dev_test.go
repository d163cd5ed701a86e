package dev

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
	"cellgate/test/options"
)

func TestATelemetryMessageReachesEverything(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	vin := fleet.VIN(7)
	c := g.connect(vin, g.vehicleToken(vin))
	payload := `{"soc": 9, "speed": 42.5}`
	send(c, "v1/"+vin+"/up/telemetry", payload)

	m := g.awaitRecords(g.Cell.Addr(), "vehicle.telemetry", vin, 1)[0]
	h := m.Headers
	if string(m.Value) != payload || h["vin"] != vin || h["cell"] != "cell-dev" || h["rule"] != "telemetry" || h["msg-id"] == "" {
		t.Errorf("record %s, headers %v", m.Value, h)
	}
	g.awaitRecords(g.Cell.Addr(), "vehicle.alerts", vin, 1)
	central := g.awaitRecords(g.Central.Addr(), "fleet.alerts", vin, 1)[0].Headers
	if central["src-topic"] != "central.p0" || central["msg-id"] != h["msg-id"] {
		t.Errorf("headers in the centre: %v", central)
	}
	g.awaitRecords(g.Central.Addr(), "fleet.telemetry", vin, 1)
	redis := g.redis()
	check.Within(t, check.Patience, "hash in redis", func() error {
		hash, err := redis.HGetAll(t.Context(), "veh:"+vin).Result()
		if err == nil && (hash["soc"] != "9" || hash["_at"] == "") {
			err = fmt.Errorf("%v", hash)
		}
		return err
	})
	g.assertLedger()
}

// assertLedger waits until nothing is pending and every line adds up.
func (g *gateway) assertLedger() {
	g.t.Helper()
	check.Within(g.t, check.Patience, "ledger", func() error {
		var page struct {
			Sinks []struct {
				Sink      string
				Received  uint64
				Delivered uint64
				Pending   uint64
				Balanced  bool
			}
		}
		if code := g.call("GET", "/v1/ledger", g.operator, nil, &page); code != http.StatusOK || len(page.Sinks) != 5 {
			return fmt.Errorf("%d %+v", code, page)
		}
		for _, s := range page.Sinks {
			if !s.Balanced {
				g.t.Fatalf("does not add up: %+v", s)
			}
			sampled := s.Sink != "webhook" && s.Sink != "mqtt" // by the sample rules
			if s.Pending > 0 || sampled && s.Delivered == 0 {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
}

func TestACommandGoesThereAndBack(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	vin := fleet.VIN(8)
	c := g.connect(vin, g.vehicleToken(vin))
	c.Subscribe(mqtt.Filter("v1/"+vin+"/cmd/#", 1))
	var sent struct{ ID, State string }
	code := g.call("POST", "/v1/vehicles/"+vin+"/commands", g.operator, map[string]any{"name": "unlock", "payload": map[string]string{"doors": "all"}}, &sent)
	if code != http.StatusAccepted || sent.ID == "" {
		t.Fatalf("%d %+v", code, sent)
	}
	if m := c.Message(); m.Topic != "v1/"+vin+"/cmd/"+sent.ID+"/unlock" || m.Payload != `{"doors":"all"}` {
		t.Errorf("the vehicle got %s on %s", m.Payload, m.Topic)
	}
	send(c, "v1/"+vin+"/res/"+sent.ID+"/accepted", `{}`)
	send(c, "v1/"+vin+"/res/"+sent.ID+"/succeeded", `{"ok":true}`)
	check.Within(t, check.Patience, "final state", func() error {
		if g.call("GET", "/v1/vehicles/"+vin+"/commands/"+sent.ID, g.operator, nil, &sent); sent.State != "succeeded" {
			return errors.New(sent.State)
		}
		return nil
	})
	// queued, sent, delivered, accepted, succeeded
	results := g.awaitRecords(g.Cell.Addr(), "vehicle.command-results", vin, 5)
	if last := string(results[len(results)-1].Value); !strings.Contains(last, `"state":"succeeded"`) {
		t.Errorf("last event %s", last)
	}
	g.awaitRecords(g.Cell.Addr(), "vehicle.presence", vin, 1)
}

// TestAdviceReachesTheVehicle: what a rule publishes to the vehicle comes on a topic that it may read, after rules came over the API.
func TestAdviceReachesTheVehicle(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	vin := fleet.VIN(9)
	c := g.connect(vin, g.vehicleToken(vin))
	c.Subscribe(mqtt.Filter("v1/"+vin+"/sys/#", 1))
	rules := map[string]string{"advice.rules.yaml": "rules:\n  - id: advice\n    from: [\"#\"]\n    transform: {soc: payload.soc}\n    to: [{mqtt: {class: advice, ttl: 1h}}]\n"}
	if code := g.call("PUT", "/v1/rules", g.operator, map[string]any{"files": rules}, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	for _, soc := range []string{"9", "8"} {
		send(c, "v1/"+vin+"/up/telemetry", `{"soc":`+soc+`}`)
		if m := c.Message(); m.Topic != "v1/"+vin+"/sys/advice" || m.Payload != `{"soc":`+soc+`}` {
			t.Errorf("the vehicle got %s on %s", m.Payload, m.Topic)
		}
	}
}

func TestBrokenRulesChangeNothingAndGoodOnesTakeOver(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	file := filepath.Join(g.Data, "configs", "rules", "extra.rules.yaml")
	good := "rules:\n  - id: extra\n    from: [\"v1/+/up/event\"]\n    when: payload.n > 1\n    to:\n      - kafka: {topic: vehicle.extra}\n"
	write := func(text string) {
		check.OK(t, os.WriteFile(file, []byte(text), 0o600))
	}
	write(strings.Replace(good, "n > 1", "n >", 1))
	check.Within(t, check.Patience, "error in the log", func() error {
		if !strings.Contains(g.log.String(), "extra.rules.yaml:4:") {
			return errors.New("no line names extra.rules.yaml:4")
		}
		return nil
	})
	var ready struct {
		Status   string
		Degraded []struct{ Name string }
	}
	if code := g.call("GET", "/readyz", "", nil, &ready); code != http.StatusOK || ready.Status != "degraded" || ready.Degraded[0].Name != "rules" {
		t.Errorf("readyz %d %+v", code, ready)
	}
	if code := g.call("POST", "/v1/rules/reload", g.operator, nil, nil); code != http.StatusUnprocessableEntity {
		t.Errorf("reload answered %d", code)
	}
	vin := fleet.VIN(9)
	c := g.connect(vin, g.vehicleToken(vin))
	send(c, "v1/"+vin+"/up/telemetry", `{"soc": 50}`)
	g.awaitRecords(g.Cell.Addr(), "vehicle.telemetry", vin, 1)
	write(good)
	var running struct {
		Hash  string
		Rules []struct{ ID string }
	}
	check.Within(t, check.Patience, "the good rules in force", func() error {
		if g.call("GET", "/v1/rules", g.operator, nil, &running); len(running.Rules) != 6 {
			return fmt.Errorf("%+v", running)
		}
		return nil
	})
	send(c, "v1/"+vin+"/up/event", `{"n": 2}`)
	g.awaitRecords(g.Cell.Addr(), "vehicle.extra", vin, 1)
	if code := g.call("POST", "/v1/rules/rollback", g.operator, nil, &running); code != http.StatusOK || len(running.Rules) != 5 {
		t.Errorf("rollback %d %+v", code, running)
	}
}

func TestSecondStartContinues(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	vin := fleet.VIN(10)
	first := start(t, data)
	token := first.vehicleToken(vin)
	send(first.connect(vin, token), "v1/"+vin+"/up/telemetry", `{"soc": 60}`)
	before := first.awaitRecords(first.Cell.Addr(), "vehicle.telemetry", vin, 1)[0].Headers
	first.assertLedger()
	first.stop()
	if _, err := os.Stat(filepath.Join(data, "run.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("run.json is left behind: %v", err)
	}

	second := start(t, data)
	if n := second.redis().HGet(t.Context(), "veh:"+vin, "soc").Val(); n != "60" {
		t.Errorf("redis forgot: %q", n)
	}
	send(second.connect(vin, token), "v1/"+vin+"/up/telemetry", `{"soc": 61}`)
	both := second.awaitRecords(second.Cell.Addr(), "vehicle.telemetry", vin, 2)
	if len(both) != 2 || both[0].Headers["msg-id"] != before["msg-id"] || both[1].Headers["msg-id"] == before["msg-id"] {
		t.Errorf("%d records: %v and %v", len(both), both[0].Headers, both[1].Headers)
	}
	second.assertLedger()
}

func TestTheFleetDrivesAndAnswers(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	file := filepath.Join(t.TempDir(), "ledger")
	ledger, err := fleet.OpenLedger(file)
	check.OK(t, err)
	o := fleet.Options{
		Broker: g.App.Addrs()["local"].String(), Vehicles: 20, Rate: 20, QoS: 1, Duration: time.Second, WaitConnected: true, Ledger: ledger,
		Token: func(vin string) (string, error) { return g.vehicleToken(vin), nil },
	}
	options.Fill(&o, fleet.Normal())
	report, err := fleet.Run(t.Context(), o)
	check.OK(t, err)
	check.OK(t, ledger.Close())
	if report.Connects != 20 || report.Acknowledged == 0 || report.Acknowledged != report.Published || report.Refused != 0 {
		t.Fatalf("%+v", report)
	}
	want := make(map[string]int)
	_, err = fleet.EachEntry(file, func(e fleet.Entry) { want[e.VIN]++ })
	check.OK(t, err)
	for vin, n := range want {
		g.awaitRecords(g.Cell.Addr(), "vehicle.telemetry", vin, n)
	}
	g.assertLedger()
}

func TestTakenPortsNameTheirSettings(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	defer ln.Close() //nolint:errcheck // a test
	taken := ln.Addr().String()
	for setting, line := range map[string]string{
		"listeners": `listeners: [{name: local, address: "` + taken + `"}]`,
		"http":      `http: {address: "` + taken + `"}`,
		"kafka":     `kafka: {brokers: ["` + taken + `"]}`,
		"redis":     `redis: {addresses: ["` + taken + `"]}`,
	} {
		data := t.TempDir()
		check.OK(t, prepare(data))
		_, err := startWith(t, data, line)
		if err == nil || !strings.Contains(err.Error(), setting) || !strings.Contains(err.Error(), taken) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

// startWith starts on a configuration with one section as given and all other addresses free.
func startWith(t *testing.T, data, line string) (*Dev, error) {
	t.Helper()
	harness.WriteConfig(t, configFile(data), "data_dir: ..\n"+line+"\n")
	d, err := Start(t.Context(), Options{Data: data, Log: &check.Log{}})
	if err == nil {
		_ = d.Stop(t.Context())
	}
	return d, err
}

// With free ports nobody could know the port of token_api unless the banner has it.
func TestBannerHasTheTokenAPI(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	check.OK(t, prepare(data))
	config := check.Read(t, configFile(data))
	check.OK(t, os.WriteFile(configFile(data), append(config, "\ntoken_api: {address: \"127.0.0.1:8443\"}\n"...), 0o600))
	g := start(t, data)
	var banner strings.Builder
	check.OK(t, Banner(&banner, g.Dev, BannerOptions{Program: "cellgate"}))
	_, line, found := strings.Cut(banner.String(), "  token_api ")
	if !found {
		t.Fatalf("no token_api in\n%s", banner.String())
	}
	url, _, _ := strings.Cut(strings.TrimSpace(line), "\n")
	keys, err := http.Get(strings.TrimSuffix(url, "/v1/tokens") + "/.well-known/jwks.json")
	check.OK(t, err)
	check.OK(t, keys.Body.Close())
	if keys.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", url, keys.Status)
	}
}

func TestADataFolderServesOneGateway(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	_, err := Start(t.Context(), Options{Data: g.Data, FreePorts: true, Log: &check.Log{}})
	if err == nil || !strings.Contains(err.Error(), "in use by the gateway with process id "+fmt.Sprint(os.Getpid())) {
		t.Errorf("a second gateway on the same folder: %v", err)
	}
}

func TestDisconnectAndDrain(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	vin := fleet.VIN(11)
	c := g.connect(vin, g.vehicleToken(vin))
	if code := g.call("DELETE", "/v1/vehicles/"+vin+"/connection", g.operator, nil, nil); code != http.StatusNoContent {
		t.Fatalf("disconnect answered %d", code)
	}
	c.Ended()
	c = g.connect(vin, g.vehicleToken(vin))
	var state struct {
		Draining bool
		SentAway int `json:"sent_away"`
	}
	if code := g.call("POST", "/v1/drain", g.operator, map[string]any{"rate": 1000, "endpoint": "gw-2:8883"}, &state); code != http.StatusAccepted || !state.Draining {
		t.Fatalf("drain answered %d %+v", code, state)
	}
	c.Ended()
	if code := g.call("GET", "/readyz", "", nil, nil); code != http.StatusServiceUnavailable {
		t.Errorf("readyz %d while draining", code)
	}
	g.call("DELETE", "/v1/drain", g.operator, nil, &state)
	if state.Draining || state.SentAway != 1 {
		t.Errorf("after the drain: %+v", state)
	}
	g.connect(vin, g.vehicleToken(vin))
	var page struct{ Vehicles []struct{ VIN string } }
	if g.call("GET", "/v1/vehicles?limit=1", g.operator, nil, &page); len(page.Vehicles) != 1 || page.Vehicles[0].VIN != vin {
		t.Errorf("vehicles %+v", page)
	}
	reader := g.issue(auth.IssueRequest{Subject: "dashboard", Role: auth.RoleService, Scopes: []string{auth.ScopeTelemetryRead}})
	if code := g.call("POST", "/v1/drain", reader, nil, nil); code != http.StatusForbidden {
		t.Errorf("a reader may drain: %d", code)
	}
}

package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// fleet of the analyst's rules: two vans on a gateway that runs testdata/analyst.
type analyst struct {
	*gateway
	vans [2]*mqtt.T
	vins [2]string

	mu    sync.Mutex
	posts []string // bodies that the workshop's endpoint got
}

// TestAnAnalystsRules runs the rules of testdata/analyst, which need nothing but rules/README.md to be written, and reads what
// arrives of messages of real vehicles.
func TestAnAnalystsRules(t *testing.T) {
	t.Parallel()
	a := newAnalyst(t)
	now := time.Now().UnixMilli()
	tele := func(van int, fields string) {
		send(a.vans[van], "v1/"+a.vins[van]+"/up/telemetry", fmt.Sprintf(`{"ts":%d,%s}`, time.Now().UnixMilli(), fields))
	}
	hour := now - now%3_600_000 - 3_600_000 // the one before this
	for i, energy := range []string{"1.25", "0.5"} {
		send(a.vans[1], "v1/"+a.vins[1]+"/up/telemetry", fmt.Sprintf(`{"ts":%d,"energy":%s}`, hour+int64(i+1)*60_000, energy))
	}
	tele(0, `"charging":false,"ignition":false,"soc":40,"odometer":1000.5,"speed":0,"driver":"Li","position":{"lat":31.10,"lon":121.10},"energy":1.25`)
	tele(0, `"charging":true,"ignition":true,"soc":41,"odometer":1000.5,"speed":60,"cells":[3.91,3.92,3.98],"energy":0.5`)
	tele(0, `"ignition":true,"speed":25,"position":{"lat":31.22,"lon":121.42}`)
	tele(0, `"ignition":true,"speed":55,"position":{"lat":31.22,"lon":121.42}`)
	tele(0, `"ignition":true,"speed":95,"odometer":999.9,"position":{"lat":31.30,"lon":121.50}`)
	tele(1, `"ignition":false,"soc":150,"speed":20,"cells":[3.9,3.91]`)
	for van := range a.vans {
		tele(van, `"soc":15,"status":16,"speed":5`)
	}
	time.Sleep(1100 * time.Millisecond) // a door is open for a second
	tele(0, `"soc":15,"status":16,"speed":5`)
	send(a.vans[0], "v1/"+a.vins[0]+"/up/telemetry", fmt.Sprintf(`{"ts":%d,"soc":33,"speed":1}`, now-120_000))
	send(a.vans[0], "v1/"+a.vins[0]+"/up/alarms", `{"alarms":[{"code":"E1","level":3},{"code":"E2","level":1},{"code":"E1","level":4},{"code":"E3","level":5}]}`)
	for _, code := range []string{"P1", "P2", "P1", "P1"} {
		send(a.vans[1], "v1/"+a.vins[1]+"/up/event", `{"code":"`+code+`"}`)
	}
	a.atNight()
	a.reads(hour)
	a.limits()
	a.assertLedger()
}

func newAnalyst(t *testing.T) *analyst {
	t.Helper()
	a := &analyst{vins: [2]string{"LTEST000000000001", "LTEST000000000002"}}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		check.OK(t, err)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.posts = append(a.posts, string(body))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(endpoint.Close)
	data := t.TempDir()
	folder := filepath.Join(data, "configs")
	check.OK(t, os.CopyFS(filepath.Join(folder, "rules"), os.DirFS("testdata/analyst")))
	sample, err := configs.Samples.ReadFile("dev.yaml")
	check.OK(t, err)
	config := strings.Replace(string(sample), "rules: {path: rules}", `rules: {path: rules, hash_keys: [{id: k1, key: "0123456789abcdef"}]}`, 1) +
		"\nwebhooks: {workshop: {url: \"" + endpoint.URL + "\", keys: [\"0123456789abcdef0123456789abcdef\"], private_networks: [127.0.0.0/8]}}\n"
	check.OK(t, os.WriteFile(filepath.Join(folder, "dev.yaml"), []byte(config), 0o600))
	a.gateway = start(t, data)
	for i, vin := range a.vins {
		a.vans[i] = a.connect(vin, a.vehicleToken(vin))
		_, err := a.vans[i].Client.Subscribe(nil, mqtt.Filter("v1/"+vin+"/sys/#", 1))
		check.OK(t, err)
	}
	return a
}

const byDay = "LTEST000000000003"

// atNight has one vehicle drive yesterday at two in the morning in Shanghai, and one at noon.
func (a *analyst) atNight() {
	a.t.Helper()
	day := time.Now().UTC().Truncate(24 * time.Hour)
	drive := func(c *mqtt.T, vin string, at time.Time) {
		send(c, "v1/"+vin+"/up/telemetry", fmt.Sprintf(`{"ts":%d,"speed":30}`, at.UnixMilli()))
	}
	drive(a.vans[0], a.vins[0], day.Add(-6*time.Hour))
	drive(a.connect(byDay, a.vehicleToken(byDay)), byDay, day.Add(-20*time.Hour))
}

// reads checks what has arrived. hour is the one whose energy was sent.
func (a *analyst) reads(hour int64) {
	a.t.Helper()
	for _, want := range []struct {
		topic string
		van   int
		value string // as JSON: its fields are in the record's value
	}{
		{"a.charging", 0, `{"begins":true,"soc":41}`},
		{"a.trips", 0, `{"event":"begin","odometer":1000.5}`},
		{"a.over-speed", 0, `{"speed":55}`},
		{"a.too-fast-for-model", 0, `{"speed":95,"limit":90}`},
		{"a.cells", 0, `{"spread":0.07,"cells":3}`},
		{"a.braking", 0, `{"from":60,"to":25}`},
		{"a.backfill", 0, `{"soc":33}`},
		{"a.depot", 0, `{"entered":["depot"],"left":[]}`},
		{"a.odometer", 0, `{"was":1000.5,"is":999.9}`},
		{"a.quiet", 0, `{"vin":"LTEST000000000001"}`},
		{"a.averages", 1, `{"max":20}`},
		{"a.events.grocery", 1, `{"code":"P1"}`},
		{"a.energy", 1, `{"kwh":1.75,"hour":"` + time.UnixMilli(hour).UTC().Format("2006-01-02T15:04:05.000Z") + `"}`},
	} {
		a.has(a.Cell.Addr(), want.topic, a.vins[want.van], want.value)
	}
	a.has(a.Cell.Addr(), "a.insurer", "", `{"charging":true,"soc":41}`)
	a.has(a.Central.Addr(), "fleet.alarms", "E1", `{"code":"E1","level":3}`)
	a.has(a.Central.Addr(), "fleet.alarms", "E3", `{"code":"E3","level":5}`)
	a.private()
	a.advised()
	a.redisHas()
	check.Within(a.t, check.Patience, "a post to the workshop", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.posts) != 1 || !contains(a.posts[0], `{"code":"P1","times":3,"vin":"LTEST000000000002"}`) {
			return fmt.Errorf("%q", a.posts)
		}
		return nil
	})
	all, err := harness.ReadTopic(a.t.Context(), []string{a.Cell.Addr()}, "vehicle.rule-errors")
	if err != nil || len(all) > 0 {
		a.t.Errorf("errors: %+v, %v", all, err)
	}
}

// has waits for a record of a key, any when it is "", whose value has the fields.
func (a *analyst) has(addr, topic, key, fields string) {
	a.t.Helper()
	check.Within(a.t, check.Patience, topic, func() error {
		all, err := harness.ReadTopic(a.t.Context(), []string{addr}, topic)
		for _, r := range all {
			if (key == "" || r.Key == key) && contains(string(r.Value), fields) {
				return nil
			}
		}
		return fmt.Errorf("no %s of %s among %d records: %v %w", fields, key, len(all), values(all), err)
	})
}

func values(all []harness.Record) (out []string) {
	for _, r := range all {
		out = append(out, r.Key+" "+string(r.Value))
	}
	return out
}

// contains reports whether a JSON object has the fields of another one.
func contains(value, fields string) bool {
	var have, want map[string]any
	if json.Unmarshal([]byte(value), &have) != nil || json.Unmarshal([]byte(fields), &want) != nil {
		return false
	}
	for name, v := range want {
		if fmt.Sprint(have[name]) != fmt.Sprint(v) {
			return false
		}
	}
	return true
}

// private: nothing of who drives reaches the insurer.
func (a *analyst) private() {
	a.t.Helper()
	all, err := harness.ReadTopic(a.t.Context(), []string{a.Cell.Addr()}, "a.insurer")
	check.OK(a.t, err)
	for _, r := range all {
		text := fmt.Sprint(r.Key, string(r.Value), r.Headers)
		if strings.Contains(text, "LTEST") || strings.Contains(text, "Li\"") || strings.Contains(text, "121.1") || !strings.HasPrefix(r.Key, "k1.") {
			a.t.Errorf("the insurer gets %s", text)
		}
	}
}

// advised: each van is in one arm of the experiment.
func (a *analyst) advised() {
	a.t.Helper()
	control, err := harness.ReadTopic(a.t.Context(), []string{a.Cell.Addr()}, "a.control")
	if err != nil { // nobody is in it
		control = nil
	}
	for i, vin := range a.vins {
		if slices.ContainsFunc(control, func(r harness.Record) bool { return r.Key == vin }) {
			continue
		}
		for {
			p, err := a.vans[i].Client.Next()
			check.OK(a.t, err)
			if p.Topic == "v1/"+vin+"/sys/advice" {
				break
			}
		}
	}
}

func (a *analyst) redisHas() {
	a.t.Helper()
	r := a.redis()
	check.Within(a.t, check.Patience, "Redis", func() error {
		van := r.HGetAll(a.t.Context(), "van:"+a.vins[0]).Val()
		if van["odometer"] != "999.9" || van["soc"] != "15" || van["charging"] != "true" {
			return fmt.Errorf("%v", van)
		}
		if night := r.SMembers(a.t.Context(), "night:cell-dev").Val(); !slices.Contains(night, a.vins[0]) || slices.Contains(night, byDay) {
			return fmt.Errorf("%v drove at night", night)
		}
		if n := r.XLen(a.t.Context(), "doors:"+a.vins[0]).Val(); n != 1 {
			return fmt.Errorf("%d doors", n)
		}
		return nil
	})
}

// limits: a field that suddenly is a text holds the rule, which is reported everywhere, until it is lifted.
func (a *analyst) limits() {
	a.t.Helper()
	vins := []string{"LTEST000000000011", "LTEST000000000012", "LTEST000000000013", "LTEST000000000014"}
	var vans []*mqtt.T
	for _, vin := range vins {
		vans = append(vans, a.connect(vin, a.vehicleToken(vin)))
	}
	round := func(km string) {
		for i, c := range vans {
			send(c, "v1/"+vins[i]+"/up/range", `{"km":`+km+`}`)
		}
	}
	var rules struct {
		Held []struct {
			Rule             string
			Errors, Messages int
		}
	}
	check.Within(a.t, 3*check.Patience, "the rule to be held", func() error {
		for range 15 {
			round("20")
			round(`"twenty"`)
		}
		a.call("GET", "/v1/rules", a.operator, nil, &rules)
		if len(rules.Held) != 1 || rules.Held[0].Rule != "range-as-text" || rules.Held[0].Errors*5 < rules.Held[0].Messages {
			return fmt.Errorf("%+v", rules)
		}
		return nil
	})
	var ready struct {
		Degraded []struct{ Name, Reason string }
	}
	if a.call("GET", "/readyz", "", nil, &ready); len(ready.Degraded) != 1 || !strings.Contains(ready.Degraded[0].Reason, "rules lift range-as-text") {
		a.t.Errorf("readyz %+v", ready)
	}
	if !a.families()["cellgate_rule_held"] {
		a.t.Error("no metric rule_held")
	}
	settled := func() (n int) {
		check.Within(a.t, check.Patience, "everything delivered", func() error {
			var l struct{ Sinks []harness.SinkLedger }
			if a.call("GET", "/v1/ledger", a.operator, nil, &l); l.Sinks[0].Pending > 0 {
				return errors.New("pending")
			}
			return nil
		})
		all, err := harness.ReadTopic(a.t.Context(), []string{a.Cell.Addr()}, "a.range")
		check.OK(a.t, err)
		return len(all)
	}
	before := settled()
	round("20")
	if n := settled(); n != before {
		a.t.Errorf("a held rule sends: %d records, then %d", before, n)
	}
	var explained struct {
		Rules []struct{ ID, Reason string }
	}
	a.call("POST", "/v1/rules/explain", a.operator, map[string]any{"vin": vins[0]}, &explained)
	if i := slices.IndexFunc(explained.Rules, func(r struct{ ID, Reason string }) bool { return r.ID == "range-as-text" }); i < 0 || !strings.Contains(explained.Rules[i].Reason, "limit") {
		a.t.Errorf("explained as %+v", explained)
	}
	if code := a.call("POST", "/v1/rules/lift", a.operator, map[string]any{"rule": "no-such"}, nil); code != http.StatusConflict {
		a.t.Errorf("lifting another rule answers %d", code)
	}
	if code := a.call("POST", "/v1/rules/lift", a.operator, map[string]any{"rule": "range-as-text"}, &rules); code != http.StatusOK || len(rules.Held) != 0 {
		a.t.Errorf("lift answers %d %+v", code, rules)
	}
	round("20")
	if n := settled(); n != before+len(vans) {
		a.t.Errorf("a lifted rule sends %d records, want %d", n-before, len(vans))
	}
}

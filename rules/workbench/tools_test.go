package workbench

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/doc"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink/webhook"
	"cellgate/test/check"
)

func TestSamplesPassTheirTests(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	ok, err := Test(&b, []string{"../../configs/rules"}, options(""))
	if err != nil || !ok {
		t.Fatalf("ok %t, err %v\n%s", ok, err, b.String())
	}
}

// TestSampleTestsNoticeChanges changes the shipped rules one at a time, in ways that could be an analyst's mistakes,
// and requires that the shipped tests fail.
func TestSampleTestsNoticeChanges(t *testing.T) {
	t.Parallel()
	changes := []struct{ name, from, to string }{
		{"low-battery: enter negated", "enter: payload.soc < 15", "enter: not (payload.soc < 15)"},
		{"low-battery: exit negated", "exit: payload.soc > 20", "exit: not (payload.soc > 20)"},
		{"low-battery: limit", "payload.soc < 15", "payload.soc <= 15"},
		{"low-battery: rearmed too soon", "payload.soc > 20", "payload.soc >= 20"},
		{"low-battery: without exit", ", exit: payload.soc > 20", ""},
		{"low-battery: waits", "exit: payload.soc > 20", "exit: payload.soc > 20, for: 1s"},
		{"low-battery: never", "threshold: {enter", "when: false\n    threshold: {enter"},
		{"low-battery: another topic", "state of charge under 15 %, rearmed above 20 %\n    from: [\"v1/+/up/telemetry\"]", "x\n    from: [\"v1/+/up/#\"]"},
		{"alarms: never", "every alarm that a vehicle sends", "x\n    when: false"},
		{"alarms: another topic", "v1/+/up/alarm\"]", "v1/+/up/telemetry\"]"},
		{"alerts: lane", "lane: p0", "lane: p1"},
		{"alerts: central topic", "topic: fleet.alerts", "topic: fleet.alert"},
		{"alerts: kafka topic", "topic: vehicle.alerts", "topic: vehicle.alarms"},
		{"telemetry: never", "every telemetry message to Kafka, as it was received", "x\n    when: false"},
		{"telemetry: topic", "topic: vehicle.telemetry", "topic: vehicle.telemetri"},
		{"telemetry: changed on the way", "every telemetry message to Kafka, as it was received", "x\n    transform: {soc: payload.soc}"},
		{"telemetry: everything", "as it was received\n    from: [\"v1/+/up/telemetry\"]", "x\n    from: [\"v1/+/up/#\"]"},
		{"latest-state: never", "in one Redis hash per vehicle", "x\n    when: false"},
		{"latest-state: key", "veh:${vin}", "vehicle:${vin}"},
		{"latest-state: order", "newer_than: _at", "ttl: 1h"},
		{"latest-state: event time", "event_at: ts", "event_at: time"},
		{"latest-state: fields", "fields: payload  ", "set: {soc: payload.soc}  "},
		{"sampled-to-centre: never", "to the central unit\n", "to the central unit\n    when: false\n"},
		{"sampled-to-centre: always", "sample: 10s", ""},
		{"sampled-to-centre: sooner", "sample: 10s", "sample: 9s"},
		{"sampled-to-centre: later", "sample: 10s", "sample: 11s"},
		{"sampled-to-centre: lane", "lane: p1", "lane: p2"},
		{"sampled-to-centre: topic", "topic: fleet.telemetry", "topic: fleet.telemetri"},
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ws, err := openPaths([]string{"../../configs/rules"})
			check.OK(t, err)
			found := false
			for name, text := range ws.rules {
				changed := bytes.Replace(text, []byte(c.from), []byte(c.to), 1)
				found = found || !bytes.Equal(changed, text)
				ws.rules[name] = changed
			}
			if !found {
				t.Fatalf("no rule file contains %q", c.from)
			}
			rep, err := ws.test(t.Context(), options(""))
			if err != nil || rep.Diagnostics.HasErrors() {
				t.Fatalf("the changed rules do not run: %v %v", err, rep.Diagnostics)
			}
			if rep.Failed == 0 {
				t.Errorf("all tests pass although the rules are wrong")
			}
		})
	}
}

func TestCheckText(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule})
	var b strings.Builder
	ok, err := Check(&b, []string{dir}, options(""))
	if err != nil || !ok || b.String() != "ok: 1 rule, 0 tests and no findings\n" {
		t.Errorf("ok %t err %v out %q", ok, err, b.String())
	}
	bad := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": strings.Replace(rulestest.OneRule, "when", "wehn", 1)})
	b.Reset()
	ok, err = Check(&b, []string{bad}, options(""))
	want := filepath.Join(bad, "a.rules.yaml") + `:4:5: error[R002] hot: unknown key "wehn" in a rule
    wehn: payload.temp > 80
    ^
suggestion: did you mean "when"?

1 finding
`
	if err != nil || ok || b.String() != want {
		t.Errorf("ok %t err %v out:\n%s\nwant:\n%s", ok, err, b.String(), want)
	}
}

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "b.rules.yaml": rulestest.OneRule})
	var b bytes.Buffer
	ok, err := Check(&b, []string{dir}, ToolOptions{Options: options("").Options, JSON: true})
	var rep checkReport
	if jerr := json.Unmarshal(b.Bytes(), &rep); jerr != nil || err != nil || ok {
		t.Fatalf("ok %t err %v json %v\n%s", ok, err, jerr, b.String())
	}
	if len(rep.Diagnostics) != 1 || rep.Diagnostics[0].Code != doc.CodeDuplicateID || rep.Diagnostics[0].Line != 2 {
		t.Errorf("got %+v", rep.Diagnostics)
	}
	if !strings.Contains(rep.Diagnostics[0].Message, "a.rules.yaml:2") {
		t.Errorf("the message does not say where the other rule is: %s", rep.Diagnostics[0].Message)
	}
}

// A check refuses what a gateway would refuse to apply, and says what to do.
func TestCheckRefusesWhatIsEmpty(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"no file":        {},
		"only a test":    {"a_test.yaml": "tests: []\n"},
		"another ending": {"a.yaml": rulestest.OneRule},
		"no byte":        {"a.rules.yaml": rulestest.OneRule, "b.rules.yaml": ""},
		"comments":       {"a.rules.yaml": "# soon\n"},
		"cut short":      {"a.rules.yaml": "rules:\n"},
		"no rules yet":   {"a.rules.yaml": "lists: {a: [b]}\n"},
	} {
		var b, j strings.Builder
		dir := rulestest.WriteFiles(t, files)
		ok, err := Check(&b, []string{dir}, options(""))
		if err != nil || ok || !strings.Contains(b.String(), "`rules: []`") || !strings.Contains(b.String(), "error[R003]") {
			t.Errorf("%s: ok %t err %v out %q", name, ok, err, b.String())
		}
		var rep checkReport
		ok, err = Check(&j, []string{dir}, ToolOptions{Options: options("").Options, JSON: true})
		if jerr := json.Unmarshal([]byte(j.String()), &rep); jerr != nil || err != nil || ok || rep.OK || len(rep.Diagnostics) != 1 {
			t.Errorf("%s: ok %t err %v out %q", name, ok, err, j.String())
		}
	}
	var b strings.Builder
	if ok, err := Check(&b, []string{rulestest.WriteFiles(t, map[string]string{"none.rules.yaml": "rules: []\n"})}, options("")); err != nil || !ok {
		t.Errorf("rules: []: ok %t err %v out %q", ok, err, b.String())
	}
	if _, err := Check(&b, []string{filepath.Join(t.TempDir(), "none")}, options("")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
}

func TestTestReportsFailures(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "a_test.yaml": `tests:
  - name: hot
    steps:
      - payload: {temp: 81}
        expect: [{rule: hot, kafka: {topic: cold}}]
      - payload: {temp: 80}
        expect: [{rule: hot}]
      - payload: {temp: 99}
        expect: none
`})
	var b strings.Builder
	ok, err := Test(&b, []string{filepath.Join(dir, "a_test.yaml")}, options(""))
	if err != nil || ok {
		t.Fatalf("ok %t err %v", ok, err)
	}
	for _, want := range []string{
		"FAIL  hot\n", `:5: step 1: rule hot: topic is "hot", expected "cold"`,
		":7: step 2: rule hot has no matching output", ":8: step 3: not expected: rule hot target 0", "0 passed, 1 failed\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if _, err := Test(&b, []string{t.TempDir()}, options("")); !errors.Is(err, errNoTests) {
		t.Errorf("no tests: %v", err)
	}
}

func TestTestNamesUnknownRule(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "a_test.yaml": `tests:
  - name: hot
    steps: [{payload: {}, expect: [{rule: hott}]}]
`})
	var b strings.Builder
	ok, err := Test(&b, []string{dir}, options(""))
	if err != nil || ok || !strings.Contains(b.String(), `error[R060] test hot: there is no rule "hott"`) {
		t.Errorf("ok %t err %v\n%s", ok, err, b.String())
	}
}

// TestStrict checks that warnings are shown, and fail only with Strict.
func TestStrict(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": strings.Replace(rulestest.OneRule, "> 80", "> 80 and true", 1)})
	for _, strict := range []bool{false, true} {
		var b, j strings.Builder
		ok, err := Check(&b, []string{dir}, ToolOptions{Options: options("").Options, Strict: strict})
		if err != nil || ok == strict || !strings.Contains(b.String(), "a.rules.yaml:4:33: warning[R080] hot: true is always true") {
			t.Errorf("strict %t: ok %t %v\n%s", strict, ok, err, b.String())
		}
		if ok, err := Check(&j, []string{dir}, ToolOptions{Options: options("").Options, Strict: strict, JSON: true}); err != nil || ok == strict || !strings.Contains(j.String(), `"level": "warning"`) {
			t.Errorf("strict %t: ok %t %v\n%s", strict, ok, err, j.String())
		}
	}
}

// TestToolsShowEveryDigit checks that explain and test show values exactly as they are sent.
func TestToolsShowEveryDigit(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"a.rules.yaml": "rules:\n  - {id: r, from: [\"#\"], transform: {id: payload.id, d: payload.d}, to: [{kafka: {topic: t, key: payload.id}}]}\n",
		"a_test.yaml": "tests:\n  - name: n\n    steps:\n      - payload: {id: 9007199254740993, d: 1.10}\n        expect: [{rule: r, kafka: {key: 9007199254740993, value: {id: 9007199254740993, d: 1.1}}}]\n" +
			"  - name: off by one\n    steps:\n      - payload: {id: 9007199254740993}\n        expect: [{rule: r, kafka: {value: {id: 9007199254740992}}}]\n",
	}
	var b strings.Builder
	_, err := Test(&b, []string{rulestest.WriteFiles(t, files)}, options(""))
	if err != nil || !strings.Contains(b.String(), "ok    n\n") || !strings.Contains(b.String(), "value.id is 9007199254740993, expected 9007199254740992") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

func options(cell string) ToolOptions {
	o := ToolOptions{Options: rulestest.Options(cell)}
	o.Targets = slices.Insert(o.Targets, 3, &webhook.Target)
	return o
}

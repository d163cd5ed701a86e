package engine

import (
	"fmt"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// evalWhen compiles a condition without a schema and returns its result for a payload: "true", "false" or the error.
func evalWhen(t *testing.T, when, payload string) string {
	t.Helper()
	set := rulestest.Compile(t, "rules:\n  - id: r\n    from: [\"#\"]\n    when: |\n      "+when+"\n    to: [{kafka: {topic: t}}]\n")
	rec := rulestest.Telemetry(1, rulestest.Epoch, payload)
	ds := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil)
	switch {
	case len(ds) == 0:
		return "false"
	case ds[0].Target == TargetError, ds[0].Target == TargetUndecoded:
		return "error: " + ds[0].Err
	}
	return "true"
}

func TestConditions(t *testing.T) {
	t.Parallel()
	const p = `{"soc":14,"big":9007199254740993,"gear":"D","on":true,"nul":null,"pos":{"lat":31.5,"tags":["a","b"]},"list":[1,2,3],"a.b":1,"flags":5,"neg":-1.5e2}`
	for _, c := range []struct{ when, want string }{
		{`payload.soc < 15`, "true"},
		{`payload.soc < 14`, "false"},
		{`payload.soc == 14 and payload.soc != 15`, "true"},
		{`15 > payload.soc`, "true"},
		{`payload.gear == "D"`, "true"},
		{`payload.gear in ["D", "R"]`, "true"},
		{`payload.gear not in ["P"]`, "true"},
		{`payload.soc in [14, 15]`, "true"},
		{`payload.soc in 10..20`, "true"},
		{`payload.pos.lat > 31 and payload.pos.lat < 32`, "true"},
		{`payload.pos.tags[1] == "b"`, "true"},
		{`payload["a.b"] == 1`, "true"},
		{`payload.list[0] + payload.list[2] == 4`, "true"},
		{`payload.neg == -150`, "true"},
		{`payload.on == true`, "true"},
		{`not (payload.on == true)`, "false"},
		{`bitand(int(payload.flags), 4) != 0`, "true"},
		{`payload.gear matches "^[DR]$"`, "true"},
		{`vin == "LTEST000000000001" and cell == "cell-1" and class == "telemetry" and qos == 1 and not retain`, "true"},
		{`topic startsWith "v1/" and levels[1] == vin and levels[9] == nil and len(levels) == 4`, "true"},
		{`received_at.Hour() == 0 and received_at.Year() == 2025`, "true"},
		{`raw contains "soc"`, "true"},
		{`let x = payload.soc * 2; x > 20 and x < 30`, "true"},
		{`payload.soc > 10 ? payload.gear == "D" : false`, "true"},
		{`len(payload.pos.tags) == 2`, "true"},
		{`payload.pos == payload.pos`, "true"},
		{`type(payload) == "map"`, "true"},
		{`7 / 2 == 3.5`, "true"},

		// A missing field makes comparisons false, without an error.
		{`payload.no < 15`, "false"},
		{`payload.no > 15`, "false"},
		{`payload.nul <= 15`, "false"},
		{`not (payload.no < 15)`, "true"},
		{`payload.no == nil and payload.nul == nil and payload.soc != nil`, "true"},
		{`payload.no == "x"`, "false"},
		{`payload.no != "x"`, "true"},
		{`payload.no.deeper.still < 1`, "false"},
		{`payload.soc.deeper < 1`, "false"},
		{`payload.no + 1 < 15 or payload.no * 2 > 1`, "false"},
		{`(payload.no ?? 100) > 15`, "true"},
		{`-payload.no < 0`, "false"},
		{`payload.no in ["a"]`, "false"},
		{`payload.no contains "a" or payload.no startsWith "a" or payload.no matches "a"`, "false"},
		{`payload.no and payload.on`, "false"},
		{`not payload.no`, "true"},
		{`abs(payload.no) > 1`, "false"},
		{`len(payload.no) > 0`, "false"},
		{`payload.no ? true : false`, "false"},
		{`payload.list[7] > 0`, "false"},
		{`properties.x == nil and properties["y z"] != "a"`, "true"},
		{`event_at == nil and late_ms == nil and not (late_ms > 5)`, "true"},
		{`let x = payload.no; x < 5`, "false"},
		{`(payload.no - payload.soc) / payload.no > 1`, "false"},

		// A value of the wrong type is an error.
		{`payload.gear < 15`, "error: the expression cannot be evaluated: payload.gear < 15: < does not work between a text and a whole number"},
		{`payload.soc contains "a"`, `error: the expression cannot be evaluated: payload.soc contains "a": a whole number where a text is needed`},
		{`payload.gear and payload.on`, "error: the expression cannot be evaluated: payload.gear and payload.on: a text where true or false is needed"},
		{`payload.soc in ["a"]`, `error: the expression cannot be evaluated: payload.soc in ["a"]: the value is not a text, and the list holds texts`},
	} {
		if got := evalWhen(t, c.when, p); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.when, got, c.want)
		}
	}
}

func TestPayloadThatIsNotJSON(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"", "soc=9", "{", `{"soc":9}x`, `{"soc":nan}`, `{"soc":1-2}`, `{"soc":01}`, "\xff", strings.Repeat("[", 100_000)} {
		if got := evalWhen(t, `payload.soc < 15`, p); got != fmt.Sprintf("error: the payload cannot be decoded as JSON (%d bytes)", len(p)) {
			t.Errorf("%.20q: %s", p, got)
		}
		if got := evalWhen(t, `vin != ""`, p); got != "true" {
			t.Errorf("a rule that needs nothing of %.20q: %s", p, got)
		}
	}
	if got := evalWhen(t, `payload.soc < 15`, `[1]`); got != "false" {
		t.Errorf("a list has no fields: %s", got)
	}
	if got := evalWhen(t, `payload.soc < 15`, `{"soc":1e999}`); !strings.HasPrefix(got, "error: ") {
		t.Errorf("a number out of range: %s", got)
	}
}

// TestEvalErrorsQuoteNoValues checks that errors contain no payload contents, since they are logged and counted.
func TestEvalErrorsQuoteNoValues(t *testing.T) {
	t.Parallel()
	const secret = "S3CRET"
	for _, when := range []string{
		`int(payload.x) > 1`, `float(payload.x) > 1`, `payload.x < 1`, `duration(payload.x) > duration("1s")`,
		`payload.x + 1 > 2`, `payload.x in 1..5 or payload.x - 1 > 0`, `upper(payload.y) == "A"`, `not payload.x`,
		`bitand(payload.x, 1) == 1`, `max(payload.x, 1) > 1`, `payload.x[0:1] > 5`, `payload[payload.x].z > 5`, `payload.y[payload.x].z > 5`,
	} {
		got := evalWhen(t, when, `{"x":"`+secret+`","y":{"a":"`+secret+`"}}`)
		if strings.Contains(got, secret) {
			t.Errorf("%s: %s", when, got)
		}
		if !strings.HasPrefix(got, "error: ") && !strings.Contains(when, "].z") && when != `payload.x in 1..5 or payload.x - 1 > 0` {
			t.Errorf("%s: expected an error, got %s", when, got)
		}
	}
}

func TestSchemaTypesAtRun(t *testing.T) {
	t.Parallel()
	r := newRig(t, rulestest.Compile(t, `
macros:
  low: payload.soc < 15
  both: low and payload.n % 2 == 0
lists: {fleet: [LTEST000000000001], codes: [1, 2.5, x]}
schema:
  event_at: {field: meta.ts, unit: s}
  fields: {soc: number, n: integer, meta: {ts: number}, code: any}
rules:
  - id: even
    from: ["v1/+/up/telemetry"]
    when: both and vin in fleet
    to: [{kafka: {topic: t}}]
  - id: late
    from: ["v1/+/up/telemetry"]
    when: late_ms > 5000 and event_at < received_at
    to: [{kafka: {topic: t}}]
  - id: coded
    from: ["v1/+/up/telemetry"]
    when: payload.code in codes
    to: [{kafka: {topic: t}}]
`))
	for _, c := range []struct{ payload, want string }{
		{`{"soc":10,"n":4}`, "even/0"},
		{`{"soc":10,"n":3}`, ""},
		{`{"soc":10,"n":3.5}`, "even/error"},
		{`{"soc":20}`, ""},
		{`{"meta":{"ts":1763599990}}`, "late/0"},
		{`{"meta":{"ts":1763599999}}`, ""},
		{`{"meta":{"ts":"2025-11-20T00:53:10Z"}}`, "late/0"},
		{`{"meta":{"ts":"yesterday"}}`, ""},
		{`{"code":2.5}`, "coded/0"},
		{`{"code":"x"}`, "coded/0"},
		{`{"code":7}`, ""},
	} {
		if got := r.send(0, c.payload); got != c.want {
			t.Errorf("%s: got %q, want %q", c.payload, got, c.want)
		}
	}
}

func TestPositionsInQuotedAndBlockScalars(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		when      string
		line, col int
	}{
		{`    when: true and nope`, 4, 20},
		{`    when: 'vin == ''x'' and nope'`, 4, 29},
		{`    when: "vin == \"x\" and nope"`, 4, 29},
		{`    when: "vin == \u0041nope"`, 4, 19},
		{"    when: |\n      vin == \"ü\"\n\n        and nope", 7, 13},
		{"    when: |-\n          true and\n          nope", 6, 11},
		{"    when: |2\n       nope", 5, 8},
		{"    when: \"über\" # x\n    threshold: {enter: 'nope'}", 5, 25},
	} {
		text := "rules:\n  - id: r\n    from: [\"#\"]\n" + c.when + "\n    to: [{kafka: {topic: t}}]\n"
		_, diags := lang.Compile(lang.NewSource(map[string][]byte{"a": []byte(text)}), rulestest.Options(""))
		found := false
		for _, d := range diags {
			found = found || (d.Line == c.line && d.Column == c.col && strings.Contains(d.Message, "unknown name"))
		}
		if !found {
			t.Errorf("%s\nwanted %d:%d, got\n%v", c.when, c.line, c.col, diags)
		}
	}
}

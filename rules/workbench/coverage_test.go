package workbench

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

const coveredRules = `rules:
  - id: a
    from: ["v1/+/up/telemetry"]
    when: payload.soc < 50
    threshold: {enter: payload.soc < 15}
    to: [{kafka: {topic: t}}, {kafka: {topic: u}}]
  - {id: b, from: ["v1/+/up/telemetry"], to: [{kafka: {topic: t}}], mode: shadow}
  - {id: c, from: ["v1/+/up/other"], to: [{kafka: {topic: t}}]}
  - {id: d, from: ["v1/+/up/other"], to: [{kafka: {topic: t}}], mode: disabled}
`

// TestCoverage checks that only steps with an expectation count, and only for the rules that the test is about.
func TestCoverage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		steps             string
		branches, targets int
		missing           string
	}{
		{`{payload: {soc: 9}}`, 0, 0, "a: no test reaches it"},
		{`{payload: {soc: 9}, expect: [{rule: a}]}`, 2, 2, "a: when false, threshold holds back"},
		{`{payload: {soc: 90}, expect: none}`, 1, 0, "a: when true, threshold lets through, threshold holds back, to[0], to[1]"},
		{`{payload: {soc: 40}, expect: none}`, 2, 0, "a: when false, threshold lets through, to[0], to[1]"},
		{`{payload: {soc: 9}, expect: [{rule: a}]}, {payload: {soc: 90}, expect: none}, {payload: {soc: 9}, expect: none}`, 4, 2, ""},
	} {
		dir := rulestest.WriteFiles(t, map[string]string{
			"a.rules.yaml": coveredRules, "a_test.yaml": "tests: [{name: x, rules: [a], steps: [" + c.steps + "]}]\n",
		})
		ws, err := openPaths([]string{dir})
		check.OK(t, err)
		rep, err := ws.test(t.Context(), options(""))
		if err != nil || !rep.OK {
			t.Fatalf("%s: %v %+v", c.steps, err, rep)
		}
		got := rep.Coverage
		if got.Rules.Of != 3 || got.Branches != (Share{c.branches, 4}) || got.Targets != (Share{c.targets, 3}) {
			t.Errorf("%s: %+v", c.steps, got)
		}
		if (c.missing != "") != slices.Contains(got.Missing, c.missing) && c.missing != "" {
			t.Errorf("%s: missing %q, want %q", c.steps, got.Missing, c.missing)
		}
	}
}

// TestNew checks that new files are valid, that their tests pass, and that existing files are not overwritten.
func TestNew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &Sketch{ID: "hot", Owner: "o'neil: team", Class: "telemetry", When: `payload.name == 'x' or payload.temp > 60`, Topic: "alerts", Payload: `{"temp": 71}`}
	names, err := New(dir, s, options(""))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	var out bytes.Buffer
	if ok, err := Check(&out, []string{dir}, options("")); err != nil || !ok {
		t.Errorf("%v\n%s", err, out.String())
	}
	if ok, err := Test(&out, []string{dir}, options("")); err != nil || !ok || !strings.Contains(out.String(), "2 of 2 branches") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if _, err := New(dir, s, options("")); !errors.Is(err, errExists) {
		t.Errorf("over what is there: %v", err)
	}
	for _, wrong := range []Sketch{
		{ID: "a", Class: "telemetry", When: "payload.temp >", Topic: "t", Payload: "{}"},
		{ID: "b", Class: "telemetry", When: "payload.temp > 60", Topic: "t", Payload: `{"temp": 1}`},
		{ID: "c", Class: "telemetry", When: "payload.temp > 60", Topic: "t", Payload: `temp`},
		{ID: "d e", Class: "telemetry", Topic: "t", Payload: `{}`},
	} {
		if _, err := New(dir, &wrong, options("")); !errors.Is(err, errSketch) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("files %v", left)
	}
}

// TestShippedSchema compares the shipped schema file with the output of `cellgate rules schema`.
func TestShippedSchema(t *testing.T) {
	t.Parallel()
	file := filepath.Join("../../configs/rules", schemaFile)
	var want bytes.Buffer
	check.OK(t, JSONSchema(&want, options("").Targets))
	check.Golden(t, file, want.String())
}

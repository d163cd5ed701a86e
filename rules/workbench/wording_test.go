package workbench

import (
	"strings"
	"testing"

	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

// Each difference from what a step expects is one line.
func TestOneFailurePerDifference(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{
		"a.rules.yaml": `rules:
  - id: hot
    from: ["v1/+/up/telemetry"]
    transform: {temp: payload.temp}
    to:
      - kafka: {topic: hot}
      - redis: {hash: "hot:${vin}", set: {temp: payload.temp}}
`,
		"a_test.yaml": `tests:
  - name: other values
    steps:
      - payload: {temp: 90}
        expect:
          - {rule: hot, kafka: {topic: hot, value: {temp: 91}}}
          - {rule: hot, redis: {hash: cold}}
  - name: one target too many
    steps:
      - payload: {temp: 90}
        expect:
          - {rule: hot, kafka: {topic: hot}}
`,
	})
	ws, err := openPaths([]string{dir})
	check.OK(t, err)
	rep, err := ws.test(t.Context(), options(""))
	if err != nil || len(rep.Results) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	for i, want := range [][]string{
		{"rule hot: value.temp is 90, expected 91", `rule hot: hash is "hot:LTEST000000000001", expected "cold"`},
		{"not expected: rule hot target 1"},
	} {
		got := rep.Results[i].Failures
		if len(got) != len(want) {
			t.Errorf("%s: %+v", rep.Results[i].Name, got)
			continue
		}
		for j, w := range want {
			if !strings.HasPrefix(got[j].Message, w) {
				t.Errorf("%s: %q, want %q", rep.Results[i].Name, got[j].Message, w)
			}
		}
	}
}

// A file that a gateway would not read is named, since checking its rules is pointless.
func TestCheckNamesFilesThatAreNotRead(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "hot.yaml": rulestest.OneRule, "x.yml": "", "a_test.yaml": "tests: []\n", "notes.txt": ""})
	for _, c := range []struct{ path, want string }{
		{dir, "it ignores: " + dir + "/hot.yaml, " + dir + "/x.yml\n"},
		{dir + "/hot.yaml", "it ignores: " + dir + "/hot.yaml\n"},
	} {
		var b strings.Builder
		if ok, err := Check(&b, []string{c.path}, options("")); err != nil || !ok || !strings.HasSuffix(b.String(), c.want) {
			t.Errorf("%s: ok %t err %v out %q", c.path, ok, err, b.String())
		}
	}
}

// An expected duration may be written differently than in the rule.
func TestExpectedDurations(t *testing.T) {
	t.Parallel()
	for ttl, passes := range map[string]bool{"24h": true, "1d": true, "24h0m0s": true, "23h": false, "soon": false} {
		ws := &workspace{
			rules: map[string][]byte{"a.rules.yaml": []byte("rules:\n  - {id: a, from: [\"v1/+/up/telemetry\"], to: [{redis: {set_add: s, ttl: 24h}}]}\n")},
			tests: map[string][]byte{"a_test.yaml": []byte("tests: [{name: a, steps: [{payload: {}, expect: [{rule: a, redis: {ttl: " + ttl + "}}]}]}]\n")},
		}
		if rep, err := ws.test(t.Context(), options("")); err != nil || rep.OK != passes {
			t.Errorf("%s: %v, %v %+v", ttl, err, rep.Diagnostics, rep.Results)
		}
	}
}

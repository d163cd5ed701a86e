package rules

import (
	"strings"
	"testing"

	"cellgate/broker/message"
)

// One thing that a step gives otherwise than expected is one line.
func TestOneFailurePerDifference(t *testing.T) {
	t.Parallel()
	dir := writeFiles(t, map[string]string{
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
	if err != nil {
		t.Fatal(err)
	}
	rep, err := ws.test(t.Context(), ToolOptions{})
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

// A file that a gateway would not read is named, since its rules are checked in vain.
func TestCheckNamesFilesThatAreNotRead(t *testing.T) {
	t.Parallel()
	dir := writeFiles(t, map[string]string{"a.rules.yaml": oneRule, "hot.yaml": oneRule, "x.yml": "", "a_test.yaml": "tests: []\n", "notes.txt": ""})
	for _, c := range []struct{ path, want string }{
		{dir, "it passes over: " + dir + "/hot.yaml, " + dir + "/x.yml\n"},
		{dir + "/hot.yaml", "it passes over: " + dir + "/hot.yaml\n"},
	} {
		var b strings.Builder
		if ok, err := Check(&b, []string{c.path}, ToolOptions{}); err != nil || !ok || !strings.HasSuffix(b.String(), c.want) {
			t.Errorf("%s: ok %t err %v out %q", c.path, ok, err, b.String())
		}
	}
}

// People read where an output goes; what is wrong with the payload as a whole is told once.
func TestExplanationIsForPeople(t *testing.T) {
	t.Parallel()
	set, diags := Compile(NewSource(map[string][]byte{"a.rules.yaml": []byte(`rules:
  - id: hot
    from: ["v1/+/up/telemetry"]
    when: payload.temp > 80 and payload.speed > 0
    to:
      - kafka: {topic: hot}
      - central: {lane: p0, topic: fleet.hot}
      - redis: {hash: "hot:${vin}", set: {temp: payload.temp}}
`)}), Options{Cell: "c"})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	explain := func(payload string) string {
		var b strings.Builder
		x := set.Explain(&message.Record{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/telemetry", Payload: []byte(payload)}, nil)
		if err := x.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	text := explain(`{"temp": 90, "speed": 1}`)
	for _, want := range []string{
		"→ kafka hot, key V: {\"speed\":1,\"temp\":90}\n",
		"→ central fleet.hot, lane p0, key V: {\"speed\":1,\"temp\":90}\n",
		"→ redis {\"fields\":{\"temp\":\"90\"},\"hash\":\"hot:V\"}\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text = explain("{"); strings.Count(text, "cannot be decoded") != 1 {
		t.Errorf("told more than once:\n%s", text)
	}
}

package workbench

import (
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestReadmeExamples compiles every YAML example of README.md as a set of its own, and runs the test example on its
// rule.
func TestReadmeExamples(t *testing.T) {
	t.Parallel()
	text := check.Read(t, "../README.md")
	ws := &workspace{rules: map[string][]byte{}, tests: map[string][]byte{}}
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		example := m[1]
		if strings.HasPrefix(example, "# test") {
			ws.tests["example_test.yaml"] = []byte(example)
			continue
		}
		name := "example" + string(rune('a'+len(ws.rules))) + ".rules.yaml"
		ws.rules[name] = []byte(example)
	}
	if len(ws.rules) < 4 || len(ws.tests) != 1 {
		t.Fatalf("found %d rule examples and %d tests", len(ws.rules), len(ws.tests))
	}
	rep, err := ws.test(t.Context(), options("cell-1"))
	if err != nil || !rep.OK {
		t.Errorf("err %v\n%v\n%+v", err, rep.Diagnostics, rep.Results)
	}
}

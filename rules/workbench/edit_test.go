package workbench

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

func TestFormatOrdersKeys(t *testing.T) {
	t.Parallel()
	const in = "# top  \r\n\n\n\nrules:\n" +
		"  # about the rule\n" +
		"  -   to: [{kafka: {topic: t}}]   # target\n" +
		"      when: |\n        payload.a < 5\n\n          and true\n" +
		"\n      # why these\n      from: [\"v1/+/up/x\"]\n" +
		"      id: r\n\n" +
		"  # the next\n" +
		"  - id: s\n    to: [{kafka: {topic: t}}]\n    from: [\"#\"]\n" +
		"# at the end\nlists: {a: [b]}\n\n\n"
	const want = "# top\n\nrules:\n" +
		"  # about the rule\n" +
		"  -   id: r\n" +
		"\n      # why these\n      from: [\"v1/+/up/x\"]\n" +
		"      when: |\n        payload.a < 5\n\n          and true\n" +
		"      to: [{kafka: {topic: t}}]   # target\n\n" +
		"  # the next\n" +
		"  - id: s\n    from: [\"#\"]\n    to: [{kafka: {topic: t}}]\n" +
		"# at the end\nlists: {a: [b]}\n"
	got, err := format([]byte(in))
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	again, err := format(got)
	if err != nil || !bytes.Equal(again, got) {
		t.Errorf("formatting twice: %v\n%s", err, again)
	}
	if _, err := format([]byte("a: [")); !errors.Is(err, errFormat) {
		t.Errorf("not YAML: %v", err)
	}
}

func TestSamplesAreFormatted(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	ok, err := FormatPaths(&b, []string{"../../configs/rules"}, true, options(""))
	if err != nil || !ok {
		t.Errorf("%v: not formatted: %s", err, b.String())
	}
}

func TestFormatPathsRewrites(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule + "\n\n", "b.rules.yaml": "rules: [", "c.rules.yaml": rulestest.OneRule})
	name := filepath.Join(dir, "a.rules.yaml")
	check.OK(t, os.Chmod(name, 0o640))
	var b strings.Builder
	ok, err := FormatPaths(&b, []string{dir}, false, options(""))
	if ok || !errors.Is(err, errFormat) || b.String() != filepath.ToSlash(name)+"\n" {
		t.Errorf("ok %t err %v out %q", ok, err, b.String())
	}
	text, err := os.ReadFile(name)
	if err != nil || string(text) != rulestest.OneRule {
		t.Errorf("%v: %q", err, text)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", err, info.Mode())
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("files left behind: %v %v", err, left)
	}
}

// TestSchemaKnowsTheKeys compares the JSON Schema with what Compile accepts.
func TestSchemaKnowsTheKeys(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	check.OK(t, JSONSchema(&b, options("").Targets))
	var s op.JSON
	check.OK(t, json.Unmarshal(b.Bytes(), &s))
	defs, _ := s["$defs"].(op.JSON)
	rule, _ := defs["rule"].(op.JSON)
	if want := slices.Sorted(slices.Values(lang.RuleKeys())); !slices.Equal(schemaKeys(rule), want) {
		t.Errorf("a rule has %v, the schema %v", want, schemaKeys(rule))
	}
	keys := map[string]bool{}
	redis, _ := defs["redis"].(op.JSON)
	shapes, _ := redis["oneOf"].([]any)
	for _, shape := range shapes {
		p, _ := shape.(op.JSON)
		for _, k := range schemaKeys(p) {
			keys[k] = true
		}
	}
	for _, k := range op.KeyNames(op.RedisKeys()) {
		if !keys[k] {
			t.Errorf("the schema has no redis key %q", k)
		}
	}
	if len(keys) != len(op.RedisKeys()) {
		t.Errorf("the schema has %v", keys)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	before := `
lists: {l: [a]}
macros: {low: payload.soc < 15}
rules:
  - {id: same, from: [a, b], when: payload.x   >  1, to: [{kafka: {topic: t}}]}
  - {id: gone, from: [a], sample: 1s, to: [{kafka: {topic: t}}]}
  - {id: macro, from: [a], threshold: {enter: low}, to: [{kafka: {topic: t}}]}
  - {id: list, from: [a], to: [{kafka: {topic: "t.${payload.k in l}"}}]}
  - {id: target, from: [a], sample: 1s, to: [{redis: {hash: h, set: {a: vin}}}]}
`
	after := `
lists: {l: [a, b]}
macros: {low: payload.soc < 16}
rules:
  - {id: target, from: [a], sample: 1s, to: [{redis: {hash: h, set: {a: cell}}}, {kafka: {topic: u}}]}
  - {id: list, from: [a], to: [{kafka: {topic: "t.${payload.k in l}"}}]}
  - {id: macro, from: [a], threshold: {enter: low}, to: [{kafka: {topic: t}}]}
  - {id: new, from: [a], to: [{kafka: {topic: t}}]}
  - {id: same, owner: x, from: [b, a], when: payload.x > 1, to: [{kafka: {topic: t}}]}
`
	rep := Diff(rulestest.Compile(t, before), rulestest.Compile(t, after))
	var got []string
	for _, c := range rep.Changes {
		s := c.Kind + " " + c.Rule
		for _, p := range c.Parts {
			s += " " + p.Key
		}
		if len(c.StateLost) > 0 {
			s += " loses " + strings.Join(c.StateLost, ",")
		}
		got = append(got, s)
	}
	want := []string{
		"removed gone loses sample", "changed list to[0]", "changed macro threshold loses threshold", "added new", "changed target to[0] to[1]",
	}
	if !slices.Equal(got, want) || rep.Same != 1 {
		t.Errorf("got %q and %d the same, want %q", got, rep.Same, want)
	}
	dirs := []string{rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": before}), rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": after})}
	var b strings.Builder
	if _, ok, err := DiffPaths(&b, dirs[0], dirs[1], options("")); !ok || err != nil || !strings.Contains(b.String(), "5 rules different, 1 the same") {
		t.Errorf("%t %v\n%s", ok, err, b.String())
	}
}

func schemaKeys(part op.JSON) []string {
	p, _ := part["properties"].(op.JSON)
	return slices.Sorted(maps.Keys(p))
}

// FuzzFormat checks that no text makes Format crash, and that formatting its output changes nothing.
func FuzzFormat(f *testing.F) {
	f.Add([]byte(rulestest.OneRule))
	f.Add([]byte("0\r"))
	f.Fuzz(func(t *testing.T, text []byte) {
		once, err := format(text)
		if err != nil {
			return
		}
		if again, err := format(once); err != nil || !bytes.Equal(once, again) {
			t.Fatalf("formatting twice: %v\n%s\n%s", err, once, again)
		}
	})
}

package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// hostileConditions are conditions that take as long as possible on the largest message.
func hostileConditions() map[string]string {
	return map[string]string{
		"a pattern of many choices":      `payload.a matches "` + strings.Repeat("(a|aa)*", 600) + `b"`,
		"a pattern that may be anything": `payload.a matches "` + strings.Repeat("a?", 3000) + strings.Repeat("a", 200) + `b"`,
		"a pattern with repetitions":     `payload.a matches "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[b-z]{500}$"`,
		"texts that are joined":          "len(" + strings.TrimSuffix(strings.Repeat("raw + ", 128), "+ ") + ") < 0",
		"copies":                         `len(upper(lower(upper(raw)))) < 0`,
		"parts":                          `len(split(raw, "a")) < 0`,
		"a search":                       `indexOf(raw, "` + strings.Repeat("a", 4000) + `b") > 0`,
		"JSON":                           `len(toJSON(payload)) < 0`,
		"base64":                         `len(toBase64(toBase64(toBase64(raw)))) < 0`,
		"hashes":                         strings.TrimSuffix(strings.Repeat(`hash(raw) == "" or `, 100), "or "),
		"powers":                         strings.TrimSuffix(strings.Repeat("9 ** 99999 < payload.n or ", 100), "or "),
		"a list of lists":                `payload.l[0][1][1] == 7`,
	}
}

// largest returns a message of about the maximum size.
func largest() string {
	return `{"n":1,"a":"` + strings.Repeat("a", 250<<10) + `","l":[` + strings.TrimSuffix(strings.Repeat("[1,[2,[3]]],", 100), ",") + `]}`
}

// decide evaluates a message with a rule on every topic that has these keys.
func decide(t testing.TB, keys, payload string) []Decision {
	t.Helper()
	set := rulestest.Compile(t, "rules:\n  - {id: r, from: [\"#\"], "+keys+", to: [{kafka: {topic: t}}]}\n")
	rec := rulestest.Telemetry(1, rulestest.Epoch, payload)
	return NewEngine(set, state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil)
}

// TestHostileRulesEnd checks that every condition ends, whatever the message; what would take too long is an error.
// BenchmarkHostileRules measures each of them.
func TestHostileRulesEnd(t *testing.T) {
	t.Parallel()
	for name, condition := range hostileConditions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ds := decide(t, "when: '"+condition+"'", largest())
			if tooLong := strings.HasPrefix(name, "a pattern") || strings.HasPrefix(name, "texts"); tooLong != (len(ds) == 1 && strings.Contains(ds[0].Err, " at most ")) {
				t.Errorf("%+v", ds)
			}
		})
	}
}

func BenchmarkHostileRules(b *testing.B) {
	for name, condition := range hostileConditions() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				decide(b, "when: '"+condition+"'", largest())
			}
		})
	}
}

// TestAllOfARuleIsBounded checks that the work limit applies to a rule and message as a whole, not to each pattern of a
// condition or each element of a list separately.
func TestAllOfARuleIsBounded(t *testing.T) {
	t.Parallel()
	const (
		pattern = `payload.a matches "(a|b)*(a|b)*(a|b)*(a|b)*c"`
		upper   = `upper(payload.a) == "x"`
		element = `upper(string(item)) == "x"`
		median  = `median(payload.m) > 1`
	)
	times := func(n int, s, with string) string { return strings.TrimSuffix(strings.Repeat(s+with, n), with) }
	message := func(text, list int) string {
		return `{"a":"` + strings.Repeat("b", text) + `","l":[` + times(100, "1", ",") + `],"m":[` + times(list, "1", ",") + `]}`
	}
	short, long := message(1000, 1000), message(240_000, 1)
	for name, c := range map[string]struct {
		keys, payload string
		refused       bool
	}{
		"one pattern":                    {`when: '` + pattern + `'`, long, false},
		"patterns":                       {`when: '` + times(20, pattern, " or ") + `'`, long, true},
		"patterns, of a short text":      {`when: '` + times(20, pattern, " or ") + `'`, short, false},
		"a pattern for each element":     {`each: payload.l, when: '` + pattern + ` and item == 1'`, long, true},
		"the same, of a short text":      {`each: payload.l, when: 'item == 1 and ` + pattern + `'`, short, false},
		"functions for each element":     {`each: payload.l, when: 'item == 1 and (` + times(100, upper, " or ") + `)'`, long, true},
		"functions of the element":       {`each: payload.l, when: '` + times(100, element, " or ") + `'`, long, false},
		"lists for each element":         {`each: payload.l, when: 'item == 1 and (` + times(100, median, " or ") + `)'`, message(1, 100_000), true},
		"a pattern behind the condition": {`when: '` + pattern + ` or true', count: {at_least: 1, window: 1h, by: 'string(` + times(5, pattern, ` or `) + `)'}`, long, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused := false
			for _, d := range decide(t, c.keys, c.payload) {
				refused = refused || strings.Contains(d.Err, "together take too long")
			}
			if refused != c.refused {
				t.Errorf("refused %t, want %t", refused, c.refused)
			}
		})
	}
}

// TestAMessageThatIsMadeIsBounded checks the same for rendering the elements of a list, in any grouping.
func TestAMessageThatIsMadeIsBounded(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - id: r
    from: ["#"]
    each: payload.l
    transform: {held: 'payload.a matches "(a|b)*(a|b)*(a|b)*(a|b)*c"'}
    to: [{kafka: {topic: t}}]
`)
	for text, refused := range map[int]bool{1000: false, 240_000: true} {
		e := NewEngine(set, state.NewState(state.StateOptions{}))
		rec := rulestest.Telemetry(1, rulestest.Epoch, `{"l":[1,2],"a":"`+strings.Repeat("b", text)+`"}`)
		ds := e.NewWorker().Eval(&rec, nil)
		if len(ds) != 2 {
			t.Fatalf("%+v", ds)
		}
		for _, d := range ds {
			var r op.Rendered
			if err := e.Render(d, &rec, &r); (err != nil) != refused {
				t.Errorf("a text of %d bytes: %v", text, err)
			}
		}
	}
}

// TestOneRuleLeavesTheOthersTheirWork checks that the work of one rule does not count against another.
func TestOneRuleLeavesTheOthersTheirWork(t *testing.T) {
	t.Parallel()
	text := "rules:\n"
	for i := range 4 {
		text += fmt.Sprintf("  - {id: r%d, from: [\"#\"], when: 'payload.a matches \"(a|b)*(a|b)*(a|b)*(a|b)*c\" or payload.n < %d', to: [{kafka: {topic: t}}]}\n", i, i+2)
	}
	rec := rulestest.Telemetry(1, rulestest.Epoch, `{"n":1,"a":"`+strings.Repeat("b", 240_000)+`"}`)
	ds := NewEngine(rulestest.Compile(t, text), state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil)
	if len(ds) != 4 || slices.ContainsFunc(ds, func(d Decision) bool { return d.Err != "" }) {
		t.Errorf("%+v", ds)
	}
}

// TestMacrosDoNotGrow checks macros that use one another twice and so double with each level.
func TestMacrosDoNotGrow(t *testing.T) {
	t.Parallel()
	text := "macros:\n  m0: payload.a + 1\n"
	for i := range 60 {
		text += fmt.Sprintf("  m%d: m%d + m%d\n", i+1, i, i)
	}
	text += "rules:\n  - {id: r, from: [\"#\"], when: m60 > 1, to: [{kafka: {topic: t}}]}\n"
	set, found := lang.Compile(lang.NewSource(map[string][]byte{"f.rules.yaml": []byte(text)}), rulestest.Options(""))
	if set != nil || !slices.ContainsFunc(found, func(d doc.Diagnostic) bool { return d.Code == doc.CodeExprTooLarge }) {
		t.Errorf("%v", found)
	}
}

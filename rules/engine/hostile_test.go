package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// hostileConditions take as long as a rule can be made to take with the largest message.
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

// TestHostileRulesEnd: no condition takes for ever, whatever the message. What would take too long is an error. The bound is far
// above what each of them takes, since this is no measurement.
func TestHostileRulesEnd(t *testing.T) {
	t.Parallel()
	const most = 20 * time.Second
	big := `{"n":1,"a":"` + strings.Repeat("a", 250<<10) + `","l":[` + strings.TrimSuffix(strings.Repeat("[1,[2,[3]]],", 100), ",") + `]}`
	for name, condition := range hostileConditions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "rules:\n  - {id: r, from: [\"#\"], when: '" + condition + "', to: [{kafka: {topic: t}}]}\n"
			began := time.Now()
			w := NewEngine(rulestest.Compile(t, text), state.NewState(state.StateOptions{})).NewWorker()
			rec := rulestest.Telemetry(1, rulestest.Epoch, big)
			ds := w.Eval(&rec, nil)
			took := time.Since(began)
			if took > most {
				t.Errorf("took %v", took)
			}
			if tooLong := strings.HasPrefix(name, "a pattern") || strings.HasPrefix(name, "texts"); tooLong != (len(ds) == 1 && strings.Contains(ds[0].Err, " at most ")) {
				t.Errorf("in %v: %+v", took, ds)
			}
		})
	}
}

// TestMacrosDoNotGrow: macros that use one another twice double with each line.
func TestMacrosDoNotGrow(t *testing.T) {
	t.Parallel()
	text := "macros:\n  m0: payload.a + 1\n"
	for i := range 60 {
		text += fmt.Sprintf("  m%d: m%d + m%d\n", i+1, i, i)
	}
	text += "rules:\n  - {id: r, from: [\"#\"], when: m60 > 1, to: [{kafka: {topic: t}}]}\n"
	set, found := lang.Compile(lang.NewSource(map[string][]byte{"f.rules.yaml": []byte(text)}), lang.Options{})
	if set != nil || !slices.ContainsFunc(found, func(d doc.Diagnostic) bool { return d.Code == doc.CodeExprTooLarge }) {
		t.Errorf("%v", found)
	}
}

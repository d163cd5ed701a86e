package lang_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
)

// TestHostileRulesAreBounded compiles rules written to exhaust the gateway. The error must name the bound, and the
// memory must be in proportion to the text.
func TestHostileRulesAreBounded(t *testing.T) {
	rule := func(when string) string {
		return "rules: [{id: r, from: [\"v1/+/up/telemetry\"], when: '" + when + "', to: [{kafka: {topic: t}}]}]\n"
	}
	list := func(n int) string { return "lists: {l: [" + strings.Repeat("9007199254740993, ", n) + "1]}\n" }
	zone := "zones: {z: {file: z.geojson}}\n" + rule("inside(payload.lat, payload.lon, z)")
	for _, c := range []struct {
		name, rules, data, want string
	}{
		{"a list", list(50_000) + rule("payload.a in l"), "", ""},
		{"a list over its bound", "lists:\n  l:\n" + strings.Repeat("    - 1\n", 100_001) + rule("payload.a in l"), "", "more than 100000 values"},
		{"an expression", rule(strings.Repeat("payload.a == 1 or ", 600) + "true"), "", "larger than 8192 bytes"},
		{"parts", rule(strings.Repeat("a.b+", 1900) + "1 > 0"), "", "2000 parts"},
		{"brackets", rule(strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000) + " == 1"), "", ""},
		{"power", rule("9 ** 9 ** 9 ** 9 == 1"), "", ""},
		{"a shift", rule("bitshl(1, 4000000000) == 1"), "", ""},
		{"a range", rule("payload.a in 1..1000000000"), "", "at most 1000 apart"},
		{"a pattern", rule("payload.a matches \"(a{1,1000}){1,1000}\""), "", "pattern cannot be read"},
		{"zones", "zones:\n" + repeated(300, "  z%d: {lat: 1, lon: 1, radius: 5}\n") + rule("true"), "", "more than 256 zones"},
		{"tables", "tables:\n" + repeated(300, "  t%d: {file: t.csv, key: k}\n") + rule("true"), "", "more than 256 tables"},
		{"points", zone, `{"type":"Polygon","coordinates":[[` + strings.Repeat("[0,0],", 500_000) + `[0,0]]]}`, "more than 20000 points"},
		{"deep JSON", zone, strings.Repeat("[", 1_000_000), "this is not JSON"},
		{"deep collections", zone, strings.Repeat(`{"type":"GeometryCollection","geometries":[`, 280), "this is not JSON"},
		{"filters", "rules: [{id: r, from: [" + strings.Repeat("\"a\", ", 100) + "\"b\"], to: [{kafka: {topic: t}}]}]\n", "", "from 1 to 64"},
	} {
		files := map[string][]byte{"a.rules.yaml": []byte(c.rules)}
		if c.data != "" {
			files["z.geojson"] = []byte(c.data)
		}
		src := lang.NewSource(files)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, found := lang.Compile(src, rulestest.Options(""))
		runtime.ReadMemStats(&after)
		text, work := found.Error(), after.Mallocs-before.Mallocs
		if !strings.Contains(text, c.want) || c.want == "" && strings.Contains(text, "error[") {
			t.Errorf("%s: want %q, got %.300s", c.name, c.want, text)
		}
		// Allocations measure the work regardless of the machine's load.
		if bound := uint64(100_000 + 3*(len(c.rules)+len(c.data))); work > bound { //nolint:gosec // positive
			t.Errorf("%s: %d allocations for %d bytes", c.name, work, len(c.rules)+len(c.data))
		}
	}
}

func repeated(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

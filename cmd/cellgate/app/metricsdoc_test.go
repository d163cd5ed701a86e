package app

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"cellgate/test/check"
)

// families are the sections of docs/metrics.md.
var families = []string{"resources", "state", "load", "capacity", "quality", "comparison"}

// TestMetricsAreDocumented compares docs/metrics.md with the gateway's metrics: each has one row, in one of the six
// families, and no row is of a missing metric. Metrics of sections that are off are only in the list of rows.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	file := place(t, "gw-1", "several", miniredis.RunT(t).Addr())
	replace(t, file, "rules: {", "token_api: {address: \"127.0.0.1:0\"}\nwebhooks: {crm: {url: \"https://example.com/\", keys: [\"0123456789abcdef0123456789abcdef\"]}}\n"+
		"tracing: {endpoint: \"http://127.0.0.1:1/\"}\nrules: {")
	a, _ := boot(t, file)
	text, err := os.ReadFile("../../../docs/metrics.md")
	check.OK(t, err)
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(cellgate_[a-z0-9_]+)`[^|]*\\| ([a-z]+) \\|").FindAllStringSubmatch(string(text), -1) {
		if rows[m[1]] != "" {
			t.Errorf("%s has two rows", m[1])
		}
		rows[m[1]] = m[2]
		if !slices.Contains(families, m[2]) {
			t.Errorf("%s: there is no family %s", m[1], m[2])
		}
	}
	known := metricNames(a.reg.all)
	for name := range known {
		if strings.HasPrefix(name, "cellgate_") && rows[name] == "" {
			t.Errorf("%s has no row in docs/metrics.md: write | `%s` {labels} | family | what it says |", name, name)
		}
	}
	for name := range known {
		if of, is := strings.CutSuffix(name, "_limit"); is && !known[of] && !known[of+"s_full"] {
			t.Errorf("%s stands without its use %s", name, of)
		}
	}
	for name := range rows {
		if !known[name] {
			t.Errorf("%s: no gateway measures it", name)
		}
	}
}

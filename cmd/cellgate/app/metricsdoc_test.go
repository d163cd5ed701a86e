package app

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"cellgate/test/check"
)

// families are the sections of docs/metrics.md.
var families = []string{"resources", "state", "load", "capacity", "quality", "comparison"}

// TestMetricsAreDocumented compares docs/metrics.md with the gateway's metrics: each has one row, with its labels and its
// help text, in one of the six families, and no row is of a missing metric. The gateway has every optional section.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	file := place(t, "gw-1", "several", miniredis.RunT(t).Addr())
	check.Replace(t, file, "rules: {", "token_api: {address: \"127.0.0.1:0\"}\nwebhooks: {crm: {url: \"https://example.com/\", keys: [\"0123456789abcdef0123456789abcdef\"]}}\n"+
		"tracing: {endpoint: \"http://127.0.0.1:1/\"}\nrules: {")
	a, _ := boot(t, file)
	text := check.Read(t, "../../../docs/metrics.md")
	known, rows := metricsOf(t, a.reg.all), map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(cellgate_[a-z0-9_]+)`(?: \\{(.*?)\\})? \\| ([a-z]+) \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		name, labels, family, help := row[1], row[2], row[3], row[4]
		m, is := known[name]
		switch {
		case rows[name]:
			t.Errorf("%s has two rows", name)
		case !is:
			t.Errorf("%s: no gateway measures it", name)
		case !slices.Contains(families, family):
			t.Errorf("%s: unknown family %s", name, family)
		case labels != m.labels || help != m.help:
			t.Errorf("the row is\n%s\nwant\n%s", row[0], m.row(name, family))
		}
		rows[name] = true
	}
	for name, m := range known {
		if strings.HasPrefix(name, "cellgate_") && !rows[name] {
			t.Errorf("missing row: write\n%s", m.row(name, "FAMILY"))
		}
		if of, is := strings.CutSuffix(name, "_limit"); is && known[of].help == "" && known[of+"s_full"].help == "" {
			t.Errorf("%s exists without %s", name, of)
		}
	}
}

// row returns a metric's row of docs/metrics.md.
func (m measured) row(name, family string) string {
	if m.labels != "" {
		name += "` {" + m.labels + "}"
	} else {
		name += "`"
	}
	return "| `" + name + " | " + family + " | " + m.help + " |"
}

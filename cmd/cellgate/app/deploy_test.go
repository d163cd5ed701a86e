package app

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"

	"cellgate/test/check"
)

// TestDeployNamesMetricsThatExist checks that alarms and dashboards use only metrics that a gateway has.
func TestDeployNamesMetricsThatExist(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, place(t, "gw-1", "several", miniredis.RunT(t).Addr()))
	known := metricsOf(t, a.reg.all)
	used := regexp.MustCompile(`\bcellgate_[a-z0-9_]+`)
	found := 0
	err := filepath.WalkDir("../../../deploy", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".json"}, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // a file of this repository
		for _, name := range used.FindAllString(string(text), -1) {
			found++
			base := name
			for _, part := range []string{"_bucket", "_count", "_sum"} {
				base = strings.TrimSuffix(base, part)
			}
			_, is := known[name]
			if _, isBase := known[base]; !is && !isBase {
				t.Errorf("%s asks for %s, which no gateway measures", path, name)
			}
		}
		return err
	})
	if err != nil || found == 0 {
		t.Errorf("%d names found, %v", found, err)
	}
}

// measured describes a metric.
type measured struct{ labels, help string }

// metricsOf returns all metrics of a registry by name, with or without a value.
func metricsOf(t *testing.T, reg *prometheus.Registry) map[string]measured {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		reg.Describe(descs)
	}()
	all, parts := map[string]measured{}, regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: (".*"), unit: .* variableLabels: (\{.*\})\}$`)
	for d := range descs {
		m := parts.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("a description of another form: %s", d)
		}
		help, err := strconv.Unquote(m[2])
		check.OK(t, err)
		all[m[1]] = measured{labels: strings.Trim(m[3], "{}"), help: help}
	}
	return all
}

// TestReadinessIsMeasured checks that the metrics agree with /readyz.
func TestReadinessIsMeasured(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	awaitDegraded(t, a, "kafka", "redis", "central-kafka")
	if s := check.Series(t, a.reg.all); s["cellgate_ready"] != 1 || s["cellgate_degraded{what=kafka}"] != 1 ||
		s["cellgate_degraded{what=redis}"] != 1 || s["cellgate_degraded{what=central-kafka}"] != 1 {
		t.Errorf("%v", s)
	}
	a.drain.begin(1, "", a.evict)
	if ready, there := check.Series(t, a.reg.all)["cellgate_ready"]; ready != 0 || !there {
		t.Errorf("ready %v during a drain", ready)
	}
}

package app

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	known := metricNames(a.reg.all)
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
			if !known[name] && !known[base] {
				t.Errorf("%s asks for %s, which no gateway measures", path, name)
			}
		}
		return err
	})
	if err != nil || found == 0 {
		t.Errorf("%d names found, %v", found, err)
	}
}

// metricNames returns the names of all metrics of a registry, with or without a value.
func metricNames(reg *prometheus.Registry) map[string]bool {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		reg.Describe(descs)
	}()
	names, name := make(map[string]bool), regexp.MustCompile(`fqName: "([^"]*)"`)
	for d := range descs {
		names[name.FindStringSubmatch(d.String())[1]] = true
	}
	return names
}

// TestReadinessIsMeasured checks that the metrics agree with /readyz.
func TestReadinessIsMeasured(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	awaitDegraded(t, a, "kafka", "redis", "central-kafka")
	if ready, degraded := readings(t, a); ready != 1 || !degraded["kafka"] || !degraded["redis"] || !degraded["central-kafka"] {
		t.Errorf("ready %v, degraded %v", ready, degraded)
	}
	a.drain.begin(1, "", a.evict)
	if ready, _ := readings(t, a); ready != 0 {
		t.Errorf("ready %v during a drain", ready)
	}
}

// readings returns the values of ready and degraded.
func readings(t *testing.T, a *App) (ready float64, degraded map[string]bool) {
	t.Helper()
	families, err := a.reg.all.Gather()
	check.OK(t, err)
	degraded = make(map[string]bool)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "cellgate_ready":
				ready = m.GetGauge().GetValue()
			case "cellgate_degraded":
				for _, l := range m.GetLabel() {
					if l.GetName() == "what" {
						degraded[l.GetValue()] = m.GetGauge().GetValue() == 1
					}
				}
			}
		}
	}
	return ready, degraded
}

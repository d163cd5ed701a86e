package journal

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"cellgate/test/check"
)

func TestMetricsAndStat(t *testing.T) {
	t.Parallel()
	reg := newRegistry()
	o := testOptions(t.TempDir())
	o.Metrics = NewMetrics(reg)
	j, _ := open(t, o)
	waitDurable(t, j, appendN(t, j, 1, 300))
	check.Eventually(t, "bytes are shown", func() bool { return reg.value(t, "journal_bytes") == float64(j.Stat().Bytes) })
	if reg.value(t, "journal_oldest_seconds") <= 0 || reg.value(t, "journal_fsync_seconds") < 2 || reg.value(t, "journal_batch_records") < 2 || reg.value(t, "journal_full") != 0 {
		t.Fatal("metrics do not follow the journal")
	}
	if s := j.Stat(); s.Room > o.MaxBytes-s.Bytes+3*testSegment || s.Buffered != 0 || s.Epoch != j.Epoch() {
		t.Fatalf("%+v", s)
	}
}

type registry struct{ *prometheus.Registry }

func newRegistry() registry { return registry{prometheus.NewPedanticRegistry()} }

// value returns a gauge's or counter's value, or a histogram's count.
func (r registry) value(t testing.TB, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	check.OK(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		m := f.GetMetric()[0]
		switch f.GetType() {
		case dto.MetricType_GAUGE:
			return m.GetGauge().GetValue()
		case dto.MetricType_COUNTER:
			return m.GetCounter().GetValue()
		case dto.MetricType_HISTOGRAM:
			return float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

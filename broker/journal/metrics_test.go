package journal

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/test/check"
)

func TestMetricsAndStat(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	o := testOptions(t.TempDir())
	o.Metrics = NewMetrics(reg)
	j, _ := open(t, o)
	waitDurable(t, j, appendN(t, j, 1, 300))
	check.Eventually(t, "bytes are shown", func() bool { return check.Series(t, reg)["journal_bytes"] == float64(j.Stat().Bytes) })
	s := check.Series(t, reg)
	if full, there := s["journal_full"]; s["journal_oldest_seconds"] <= 0 || s["journal_fsync_seconds"] < 2 || s["journal_batch_records"] < 2 || full != 0 || !there {
		t.Fatal("metrics do not follow the journal")
	}
	if s := j.Stat(); s.Room > o.MaxBytes-s.Bytes+3*testSegment || s.Epoch != j.Epoch() {
		t.Fatalf("%+v", s)
	}
}

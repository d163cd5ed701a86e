package console

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/metric"
	"cellgate/test/check"
)

func TestQuantilesAreOfWhatCameBetween(t *testing.T) {
	t.Parallel()
	inf := math.Inf(1)
	before := map[float64]float64{1: 100, 2: 100, 4: 100, inf: 100}
	now := map[float64]float64{1: 150, 2: 190, 4: 200, inf: 200}
	for q, want := range map[float64]float64{0.5: 1, 0.9: 2, 0.99: 3.8, 0.25: 0.5} {
		if got := quantile(q, now, before); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
	if got := quantile(0.5, now, now); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
	if got := quantile(0.99, map[float64]float64{1: 0, inf: 10}, nil); got != 1 {
		t.Errorf("above all bounds: %v", got)
	}
}

func TestChartIsValidXMLWithinItsScale(t *testing.T) {
	t.Parallel()
	c := &chart{Title: `a "<b>" chart`, Unit: secondsUnit, Lines: []line{{Name: "x", Values: []float64{0, math.NaN(), 37, math.Inf(1), 12}}, {Name: "y"}}}
	for i := range 5 {
		c.Times = append(c.Times, time.Now().Add(time.Duration(i)*sampleEvery))
	}
	d := xml.NewDecoder(strings.NewReader(string(c.Drawing())))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		check.OK(t, err)
	}
	if c.Top() != "40 s" || c.Middle() != "20 s" || c.Begin() != "5 min ago" {
		t.Errorf("scale %s %s from %s", c.Top(), c.Middle(), c.Begin())
	}
	for v, want := range map[float64]float64{0: 1, 0.3: 0.4, 1: 1, 1.1: 2, 4.5: 5, 99: 100, 100000: 100000} {
		if got := (&chart{Lines: []line{{Values: []float64{v}}}}).top(); math.Abs(got-want) > 1e-9 {
			t.Errorf("top of %v: %v, want %v", v, got, want)
		}
	}
}

func TestTheHistoryIsOneHour(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	to := metric.For(prometheus.WrapRegistererWithPrefix("cellgate_", reg))
	received := to.Counters("messages_received_total", "", "class", "qos")
	lag := to.Gauges("sink_lag_seconds", "", "sink")
	h := newHistory(reg)
	at := time.Now()
	for range maxSamples + 10 {
		at = at.Add(sampleEvery)
		received.WithLabelValues("a", "0").Add(50)
		received.WithLabelValues("b", "1").Add(50)
		lag.WithLabelValues("kafka").Set(3)
		check.OK(t, h.take(at))
	}
	all := h.samples()
	if len(all) != maxSamples || !all[len(all)-1].at.Equal(at) || !all[0].at.Equal(at.Add(-sampleEvery*(maxSamples-1))) {
		t.Fatalf("%d samples from %v to %v", len(all), all[0].at, all[len(all)-1].at)
	}
	if last := all[len(all)-1]; last.rate != 10 || last.sinkLag["kafka"] != 3 || !math.IsNaN(last.p99) {
		t.Errorf("%+v", last)
	}
}

func TestFiguresForPeople(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		trimmed(0): "0", trimmed(1234567): "1,234,567", trimmed(12.34): "12.3", trimmed(1.5): "1.5", trimmed(0.126): "0.13", trimmed(-3): "-3",
		secondsUnit(7): "7 s", secondsUnit(150): "2m30s", rateUnit(12.5): "12.5 /s", ago(time.Time{}): "-",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

package fleet

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is the result of a run.
type Report struct {
	Vehicles       int               `json:"vehicles"`
	Connected      int64             `json:"connected"` // when the run ended
	Seconds        float64           `json:"seconds"`
	Published      uint64            `json:"published"`
	Acknowledged   uint64            `json:"acknowledged"`
	Unacknowledged uint64            `json:"unacknowledged"` // QoS 1, still open when the run ended
	Refused        uint64            `json:"refused"`        // messages answered with a refusal
	Resent         uint64            `json:"resent"`
	Skipped        uint64            `json:"skipped"` // due, but not connected or the window full
	Connects       uint64            `json:"connects"`
	ConnectRefused uint64            `json:"connects_refused"`
	Reconnects     uint64            `json:"reconnects"`
	Commands       uint64            `json:"commands"`
	Alarms         uint64            `json:"alarms"`
	Bytes          uint64            `json:"bytes"`
	Rate           float64           `json:"acknowledged_per_second"`
	Latency        Percentiles       `json:"puback_ms"`
	Connect        Percentiles       `json:"connect_ms"`
	Reasons        map[string]uint64 `json:"reasons,omitempty"`
	Ledger         string            `json:"ledger,omitempty"`
}

// Percentiles of a latency, in milliseconds.
type Percentiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

func percentiles(h *hdrhistogram.Histogram) Percentiles {
	if h.TotalCount() == 0 {
		return Percentiles{}
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Percentiles{
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9),
		Max: float64(h.Max()) / 1000, Mean: h.Mean() / 1000,
	}
}

func (s *stats) report(vehicles int, open uint64) Report {
	seconds := time.Since(s.begin).Seconds()
	connects := s.connects.Load()
	r := Report{
		Vehicles:       vehicles,
		Connected:      s.connected.Load(),
		Seconds:        seconds,
		Published:      s.sent.Load(),
		Acknowledged:   s.acked.Load(),
		Unacknowledged: open,
		Refused:        s.rejected.Load(),
		Resent:         s.resent.Load(),
		Skipped:        s.skipped.Load(),
		Connects:       connects,
		ConnectRefused: s.refused.Load(),
		Reconnects:     s.reconnects.Load(),
		Commands:       s.commands.Load(),
		Alarms:         s.alarms.Load(),
		Bytes:          s.bytes.Load(),
		Latency:        percentiles(s.latency.all()),
		Connect:        percentiles(s.connect.all()),
		Reasons:        s.reasonsCopy(),
	}
	if seconds > 0 {
		r.Rate = float64(r.Acknowledged) / seconds
	}
	return r
}

// Print writes the report as text.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-15s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "fleet of %d, %.1f s\n", r.Vehicles, r.Seconds)
	line("published", "%s (%s resent, %s skipped)", Count(r.Published), Count(r.Resent), Count(r.Skipped))
	line("acknowledged", "%s (%s per second), %s still open", Count(r.Acknowledged), Count(uint64(r.Rate)), Count(r.Unacknowledged))
	line("refused", "%s messages, %s connects", Count(r.Refused), Count(r.ConnectRefused))
	line("connects", "%s, %s reconnects", Count(r.Connects), Count(r.Reconnects))
	line("commands", "%s answered", Count(r.Commands))
	line("alarms", "%s", Count(r.Alarms))
	line("puback ms", "%s", r.Latency)
	line("connect ms", "%s", r.Connect)
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		line("reason", "%s: %s", reason, Count(r.Reasons[reason]))
	}
	if r.Ledger != "" {
		line("ledger", "%s", r.Ledger)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String returns the percentiles on one line.
func (p Percentiles) String() string {
	return fmt.Sprintf("p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f", p.P50, p.P90, p.P99, p.P999, p.Max)
}

// Count formats a number with commas between thousands.
func Count(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// summary returns the progress line of a run.
func (s *stats) summary(vehicles int, before uint64, since time.Duration) string {
	recent := s.latency.recent()
	p := percentiles(recent)
	acked := s.acked.Load()
	return fmt.Sprintf("%s  %s/%s connected  %s msg/s  acknowledged %s  refused %s  reconnects %s  p50 %.1f ms  p99 %.1f ms",
		clock(time.Since(s.begin)), Count(uint64(max(0, s.connected.Load()))), Count(uint64(max(0, vehicles))),
		Count(uint64(float64(acked-before)/since.Seconds()+0.5)), Count(acked),
		Count(s.rejected.Load()+s.refused.Load()), Count(s.reconnects.Load()), p.P50, p.P99)
}

func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

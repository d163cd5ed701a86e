package console

import (
	"fmt"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"cellgate/cmd/cellgate/human"
)

// quantile estimates the q-quantile of the values that a histogram counted between two readings of its cumulative
// buckets. Like Prometheus, it assumes an even distribution within a bucket. It returns NaN when nothing was counted.
func quantile(q float64, now, before map[float64]float64) float64 {
	total := now[math.Inf(1)] - before[math.Inf(1)]
	if total <= 0 {
		return math.NaN()
	}
	lower, below := 0.0, 0.0
	for _, bound := range slices.Sorted(maps.Keys(now)) {
		count := now[bound] - before[bound]
		if count >= q*total {
			if math.IsInf(bound, 1) {
				return lower
			}
			return lower + (bound-lower)*(q*total-below)/max(count-below, 1)
		}
		lower, below = bound, count
	}
	return lower
}

// line is a line of a chart: a value per sample, NaN where there is none.
type line struct {
	Name   string
	Values []float64
}

// last returns the newest value in the chart's unit.
func (l *line) last() float64 {
	if len(l.Values) == 0 {
		return math.NaN()
	}
	return l.Values[len(l.Values)-1]
}

// chart draws lines over the last hour, with labels.
type chart struct {
	Title string
	Unit  func(float64) string
	Most  float64 // upper end of the scale; 0: from the values
	Least float64 // minimum of an upper end from the values
	Lines []line
	Times []time.Time
}

// Size of the drawing's own coordinates. It is stretched to its place; widths of lines are not.
const chartWidth, chartHeight = 600.0, 120.0

// Legend is a line's name with its newest value.
type legend struct {
	Class, Name, Value string
}

// Legend names the lines.
func (c *chart) Legend() []legend {
	out := make([]legend, len(c.Lines))
	for i := range c.Lines {
		out[i] = legend{fmt.Sprintf("s%d", i%8), c.Lines[i].Name, c.text(c.Lines[i].last())}
	}
	return out
}

func (c *chart) text(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return c.Unit(v)
}

// Top and Middle are the scale's labels.
func (c *chart) Top() string    { return c.Unit(c.top()) }
func (c *chart) Middle() string { return c.Unit(c.top() / 2) }

// span returns the time shown: as long as there are samples, and at least five minutes.
func (c *chart) span() time.Duration {
	if len(c.Times) == 0 {
		return leastSpan
	}
	covered := c.Times[len(c.Times)-1].Sub(c.Times[0]).Truncate(time.Minute) + time.Minute
	return min(max(covered, leastSpan), sampleEvery*maxSamples)
}

// leastSpan is the shortest time that a chart shows.
const leastSpan = 5 * time.Minute

// Begin returns the label at the left end.
func (c *chart) Begin() string { return fmt.Sprintf("%d min ago", int(c.span().Minutes())) }

// Summary describes the chart in words, for screen readers.
func (c *chart) Summary() string {
	parts := []string{c.Title + ", the last " + human.Span(c.span())}
	for i := range c.Lines {
		l := &c.Lines[i]
		most := math.NaN()
		for _, v := range l.Values {
			if !math.IsNaN(v) && !(v <= most) {
				most = v
			}
		}
		parts = append(parts, fmt.Sprintf("%s now %s, at most %s", l.Name, c.text(l.last()), c.text(most)))
	}
	return strings.Join(parts, "; ")
}

// top returns a round number that no value exceeds.
func (c *chart) top() float64 {
	if c.Most > 0 {
		return c.Most
	}
	most := c.Least
	for i := range c.Lines {
		for _, v := range c.Lines[i].Values {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				most = max(most, v)
			}
		}
	}
	if most == 0 {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, m := range []float64{1, 2, 4, 5, 10} {
		if most <= m*step {
			return m * step
		}
	}
	return 10 * step
}

// Drawing returns the SVG. Its colours come from the page's style sheet.
func (c *chart) Drawing() template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %.0f %.0f" preserveAspectRatio="none" role="img" aria-label="%s">`,
		chartWidth, chartHeight, template.HTMLEscapeString(c.Summary()))
	for i := range 3 {
		y := 1 + float64(i)*(chartHeight-2)/2
		fmt.Fprintf(&b, `<line class="grid" x1="0" x2="%.0f" y1="%.0f" y2="%.0f"/>`, chartWidth, y, y)
	}
	for i := range c.Lines {
		fmt.Fprintf(&b, `<path class="s%d" d="%s"/>`, i%8, c.path(&c.Lines[i]))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // numbers, and one label that is escaped
}

// path draws a line, interrupted where there is no value.
func (c *chart) path(l *line) string {
	var b strings.Builder
	top, pen := c.top(), "M"
	if len(c.Times) == 0 {
		return ""
	}
	end, span := c.Times[len(c.Times)-1], c.span().Seconds()
	for i, v := range l.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			pen = "M"
			continue
		}
		x := chartWidth * (1 - end.Sub(c.Times[i]).Seconds()/span)
		if x < 0 {
			continue
		}
		y := 1 + (chartHeight-2)*(1-min(max(v/top, 0), 1))
		fmt.Fprintf(&b, "%s%.1f %.1f", pen, x, y)
		pen = "L"
	}
	return b.String()
}

// charts are those of the Cell page.
func charts(all []sample) []*chart {
	times := make([]time.Time, len(all))
	for i := range all {
		times[i] = all[i].at
	}
	of := func(name string, value func(*sample) float64) line {
		l := line{Name: name, Values: make([]float64, len(all))}
		for i := range all {
			l.Values[i] = value(&all[i])
		}
		return l
	}
	named := func(from func(*sample) map[string]float64) (lines []line) {
		names := map[string]bool{}
		for i := range all {
			for name := range from(&all[i]) {
				names[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			lines = append(lines, of(name, func(s *sample) float64 {
				if v, known := from(s)[name]; known {
					return v
				}
				return math.NaN()
			}))
		}
		return lines
	}
	return []*chart{
		{Title: "Connections", Unit: countUnit, Times: times, Lines: []line{of("connected", func(s *sample) float64 { return s.connections })}},
		{Title: "Messages from clients", Unit: rateUnit, Times: times, Lines: []line{of("received", func(s *sample) float64 { return s.rate })}},
		{Title: "Time until PUBACK", Unit: millisUnit, Times: times, Lines: []line{
			of("median", func(s *sample) float64 { return s.p50 * 1000 }), of("99 %", func(s *sample) float64 { return s.p99 * 1000 }),
		}},
		{Title: "Journal's room", Unit: percentUnit, Most: 100, Times: times, Lines: []line{of("used", func(s *sample) float64 { return s.used * 100 })}},
		{Title: "Lag of sinks", Unit: secondsUnit, Least: 1, Times: times, Lines: named(func(s *sample) map[string]float64 { return s.sinkLag })},
		{Title: "Lag to the centre", Unit: secondsUnit, Least: 1, Times: times, Lines: named(func(s *sample) map[string]float64 { return s.laneLag })},
	}
}

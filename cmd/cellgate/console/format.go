package console

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"cellgate/cmd/cellgate/fleet"
	"cellgate/cmd/cellgate/human"
)

// Units of charts.
func countUnit(v float64) string   { return trimmed(v) }
func rateUnit(v float64) string    { return trimmed(v) + " /s" }
func millisUnit(v float64) string  { return trimmed(v) + " ms" }
func percentUnit(v float64) string { return trimmed(v) + " %" }
func secondsUnit(v float64) string {
	if v >= 120 {
		return human.Span(time.Duration(v * float64(time.Second)))
	}
	return trimmed(v) + " s"
}

// trimmed formats a number with only significant digits.
func trimmed(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == 0 || a == math.Trunc(a):
		return groups(v)
	case a >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// groups formats a whole number with separated thousands.
func groups(v float64) string {
	if v < 0 {
		return "-" + fleet.Count(uint64(-v))
	}
	return fleet.Count(uint64(math.Round(v)))
}

// functions returns the functions of the templates.
func functions(version string) template.FuncMap {
	return template.FuncMap{
		"asset":   func(name string) string { return "/static/" + version + "/" + name },
		"count":   func(v any) string { return groups(number(v)) },
		"seconds": func(v any) string { return secondsUnit(number(v)) },
		"percent": func(v float64) string { return percentUnit(math.Round(v*1000) / 10) },
		"size":    func(v int64) string { return human.Size(v) },
		"ago":     ago,
		"stamp":   stamp,
		"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
		"short":   func(s string) string { return s[:min(len(s), 12)] },
		"pretty":  pretty,
		"join":    strings.Join,
		"dict":    dict,
	}
}

// number converts any number of an answer.
func number(v any) float64 {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case *int64:
		if n != nil {
			return float64(*n)
		}
	case uint64:
		return float64(n)
	case float64:
		return n
	case *float64:
		if n != nil {
			return *n
		}
	}
	return math.NaN()
}

// ago formats the time since t.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case t.IsZero():
		return "-"
	case d < 0:
		return "in " + human.Span(-d)
	case d < time.Second:
		return "now"
	default:
		return human.Span(d) + " ago"
	}
}

// stamp formats a time to the second, in UTC.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// pretty indents JSON.
func pretty(v json.RawMessage) string {
	if len(v) == 0 {
		return ""
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return string(v)
	}
	return string(out)
}

// dict makes a map of names and values, for parts that take several.
func dict(pairs ...any) (map[string]any, error) {
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

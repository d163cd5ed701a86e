// Package duration parses durations written by people. All external ones are parsed here: in the configuration, rules,
// the HTTP API, Kafka and the command line.
package duration

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// errDuration is the only error of Parse.
var errDuration = errors.New("is not a duration: write a number with its unit, such as 500ms, 30s, 5m, 12h or 7d")

const (
	day = 24 * time.Hour
	// maxDays fits a time.Duration, which holds 106,751 days.
	maxDays = 36_500
)

// Parse accepts what time.ParseDuration accepts, optionally preceded by days: 90s, 1h30m, 7d, 1d12h, 1.5d. A day has 24
// hours. The duration must not be negative.
func Parse(text string) (time.Duration, error) {
	number, rest, days := strings.Cut(text, "d")
	if !days {
		return parse(text)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "0123456789.") != "" || n > maxDays {
		return 0, errDuration
	}
	d := time.Duration(math.Round(n * float64(day)))
	if rest == "" {
		return d, nil
	}
	more, err := parse(rest)
	if err != nil || more > math.MaxInt64-d {
		return 0, errDuration
	}
	return d + more, nil
}

func parse(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, errDuration
	}
	return d, nil
}

// Text formats a duration for Parse, without the zero parts of time.Duration.String: 1h, not 1h0m0s.
func Text(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

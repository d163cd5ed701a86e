package main

import (
	"fmt"
	"strings"
	"time"
)

// sizeText is a number of bytes for people: 48 B, 47.4 KiB, 128 MiB.
func sizeText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", max(n, 0))
	}
	v, unit := float64(n), 0
	for v >= 1023.5 && unit < 5 {
		v /= 1024
		unit++
	}
	name := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
	if v >= 99.95 {
		return fmt.Sprintf("%.0f %s", v, name)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + name
}

// spanText is a duration for people, by its two largest units: 6s, 1m5s, 3h12m, 5d2h. Below a second it is 0s.
func spanText(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	day, hour, minute, second := int(d/(24*time.Hour)), int(d/time.Hour)%24, int(d/time.Minute)%60, int(d/time.Second)%60
	switch {
	case day > 0:
		return fmt.Sprintf("%dd%dh", day, hour)
	case hour > 0:
		return fmt.Sprintf("%dh%dm", hour, minute)
	case minute > 0:
		return fmt.Sprintf("%dm%ds", minute, second)
	}
	return fmt.Sprintf("%ds", second)
}

// timeText is a time to the second, in UTC; empty for none.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// whenText is a time and how far it is from now; empty for none.
func whenText(t, now time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.After(now):
		return fmt.Sprintf("%s (in %s)", timeText(t), spanText(t.Sub(now)))
	}
	return fmt.Sprintf("%s (%s ago)", timeText(t), spanText(now.Sub(t)))
}

// many is a number and its noun.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func yes(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

// yesNO is yes for what should be and NO, to be seen, for what should not.
func yesNO(v bool) string {
	if v {
		return "yes"
	}
	return "NO"
}

// Package human writes figures for people, the same on the command line and in the console.
package human

import (
	"fmt"
	"strings"
	"time"
)

// Size is a number of bytes: 48 B, 47.4 KiB, 128 MiB.
func Size(n int64) string {
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

// Span is a duration by its two largest units: 6s, 1m5s, 3h12m, 5d2h. Below a second it is 0s.
func Span(d time.Duration) string {
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

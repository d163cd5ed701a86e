package main

import (
	"fmt"
	"time"

	"cellgate/cmd/cellgate/human"
)

// sizeText is a number of bytes for people.
func sizeText(n int64) string { return human.Size(n) }

// spanText is a duration for people, by its two largest units.
func spanText(d time.Duration) string { return human.Span(d) }

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

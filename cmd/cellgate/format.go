package main

import (
	"fmt"
	"time"

	"cellgate/cmd/cellgate/human"
)

// timeText formats a time to the second, in UTC; empty for none.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// whenText formats a time and its distance from now; empty for none.
func whenText(t, now time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.After(now):
		return fmt.Sprintf("%s (in %s)", timeText(t), human.Span(t.Sub(now)))
	}
	return fmt.Sprintf("%s (%s ago)", timeText(t), human.Span(now.Sub(t)))
}

// many returns a number with its noun.
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

// yesNO returns yes for true, and a conspicuous NO for false.
func yesNO(v bool) string {
	if v {
		return "yes"
	}
	return "NO"
}

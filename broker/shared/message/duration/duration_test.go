package duration

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0s": 0, "500ms": 500 * time.Millisecond, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour,
		"1d12h": 36 * time.Hour, "1.5d": 36 * time.Hour, "0d": 0, "36500d": 36_500 * 24 * time.Hour,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "d", "7", "-1s", "-1d", "1d-1h", "7D", "7 d", "1e3d", "0x1d", "nand", "1_000d", "36501d", "36500d2000000h", "1h1d", "1dd", "week", "infd",
	} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%s: read as %v", text, got)
		}
	}
}

// Formatted durations can be parsed.
func TestText(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", time.Minute: "1m", time.Hour: "1h", 7 * 24 * time.Hour: "168h", 90 * time.Second: "1m30s",
		time.Hour + 5*time.Second: "1h0m5s", 10 * time.Minute: "10m", 1500 * time.Millisecond: "1.5s",
	} {
		if got := Text(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
		if again, err := Parse(Text(d)); err != nil || again != d {
			t.Errorf("%v read back: %v, %v", d, again, err)
		}
	}
}

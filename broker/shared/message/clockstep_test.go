package message

import (
	"errors"
	"testing"
)

func TestClockStep(t *testing.T) {
	t.Parallel()
	for _, want := range []ClockStep{{1_760_000_000_123, 1_760_000_000_000}, {0, 2_000_000_000_000}, {4_102_444_800_001, -1}} {
		rec := want.Record()
		if got, err := rec.ClockStep(); err != nil || got != want || rec.Flags() != FlagControl {
			t.Errorf("%s: %v %v", rec.Payload, got, err)
		}
	}
	for _, bad := range []string{"", "{}", `{"from":"x","to":"y"}`, `{"from":"2026-01-01T00:00:00.000Z"}`} {
		if _, err := (&Record{Kind: KindClockStep, Payload: []byte(bad)}).ClockStep(); !errors.Is(err, errMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

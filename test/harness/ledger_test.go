package harness

import (
	"fmt"
	"testing"
)

func telemetryRecord(vin string, seq int, id string) Record {
	return Record{Topic: "t", Key: vin, Value: fmt.Appendf(nil, `{"seq":%d}`, seq), Headers: map[string]string{"msg-id": id}}
}

// TestAuditFindsEveryFault tests the audit that the crash and real tests rely on.
func TestAuditFindsEveryFault(t *testing.T) {
	t.Parallel()
	acked := Acked{"A": {1: true, 2: true, 3: true}}
	good := []Record{telemetryRecord("A", 1, "x-1"), telemetryRecord("A", 2, "x-2"), telemetryRecord("A", 2, "x-2"), telemetryRecord("A", 3, "x-3")}
	for name, c := range map[string]struct {
		records                []Record
		lost, reordered, twice int
	}{
		"all there, one twice": {good, 0, 0, 0},
		"one lost":             {good[:3], 1, 0, 0},
		"out of order":         {[]Record{good[1], good[0], good[3]}, 0, 1, 0},
		"two ids":              {append(good[:4:4], telemetryRecord("A", 3, "x-4")), 0, 0, 1},
		"another vehicle's":    {[]Record{telemetryRecord("B", 1, "x-1"), telemetryRecord("B", 2, "x-2"), telemetryRecord("B", 3, "x-3")}, 3, 0, 0},
	} {
		a, err := AuditTelemetry(acked, c.records)
		if err != nil || len(a.Lost) != c.lost || len(a.Reordered) != c.reordered || len(a.TwoIDs) != c.twice {
			t.Errorf("%s: %v, %v", name, a, err)
		}
		if (a.Err() == nil) != (c.lost+c.reordered+c.twice == 0) {
			t.Errorf("%s: Err is %v", name, a.Err())
		}
	}
}

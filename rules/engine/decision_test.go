package engine

import (
	"encoding/hex"
	"reflect"
	"testing"
)

// TestStoredDecisions pins the stored form: decision logs outlive versions.
func TestStoredDecisions(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]Decision{
		"000301":                      {Rule: 3, Target: 1},
		"0303ffff030178":              {Rule: 3, Target: TargetError, Shadow: true, Err: "x"},
		"04030102" + "7b7d":           {Rule: 3, Target: 1, Values: []byte("{}")},
		"0803feff03020305":            {Rule: 3, Target: TargetUndecoded, Undecoded: []uint16{3, 5}},
		"10030164":                    {Rule: 3, Target: 1, Item: 100},
		"200301809083ecd366" + "0156": {Rule: 3, Target: 1, Window: &Window{VIN: "V", End: 1_763_600_000_000}},
	} {
		got := d.Append(nil)
		back, n, err := DecodeDecision(got)
		if hex.EncodeToString(got) != want || err != nil || n != len(got) || !reflect.DeepEqual(back, d) {
			t.Errorf("%+v is stored as %x, want %s, and read as %+v, %v", d, got, want, back, err)
		}
	}
}

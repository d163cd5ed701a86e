package message

import (
	"errors"
	"testing"
)

// TestStoredLimits holds the stored form of limits, which journals keep.
func TestStoredLimits(t *testing.T) {
	t.Parallel()
	for want, l := range map[string]Limit{
		`{"rule":"a","version":"1f","decided":9,"errors":12,"messages":300}`: {Rule: "a", Version: "1f", Decided: 9, Errors: 12, Messages: 300},
		`{"rule":"a","version":"1f","lifted":true}`:                          {Rule: "a", Version: "1f", Lifted: true},
	} {
		rec := l.Record()
		if back, err := rec.Limit(); string(rec.Payload) != want || rec.Kind != 7 || err != nil || back != l {
			t.Errorf("%+v is stored as %s, kind %d, and read as %+v, %v", l, rec.Payload, rec.Kind, back, err)
		}
	}
	for _, payload := range []string{"", "{", "{}", `{"rule":"a"}`, `{"rule":1,"version":"1"}`} {
		rec := Record{Kind: KindLimit, Payload: []byte(payload)}
		if _, err := rec.Limit(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", payload, err)
		}
	}
}

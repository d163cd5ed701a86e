package message

import (
	"errors"
	"testing"
)

// TestStoredLimits checks the stored form of limits.
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
		if _, err := rec.Limit(); !errors.Is(err, errMalformed) {
			t.Errorf("%q: %v", payload, err)
		}
	}
}

// FuzzLimit checks that no payload crashes the parser, and that accepted limits round-trip.
func FuzzLimit(f *testing.F) {
	for _, l := range []Limit{{Rule: "r", Version: "v"}, {Rule: "r", Version: "v", Lifted: true}, {Rule: "é", Version: "v", Decided: 1 << 63, Errors: 5, Messages: 100}} {
		f.Add(l.Record().Payload)
	}
	f.Add([]byte(`{"rule":"","version":"v"}`))
	f.Add([]byte(`{"rule":5}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		l, err := (&Record{Kind: KindLimit, Payload: payload}).Limit()
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			return
		}
		again := l.Record()
		if back, err := again.Limit(); err != nil || back != l {
			t.Fatalf("%+v is read back as %+v, %v", l, back, err)
		}
	})
}

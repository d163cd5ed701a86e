package auth

import (
	"fmt"
	"slices"
	"testing"

	"cellgate/test/check"
)

// TestVerifyAllocs checks the allocations that the comments of the hot paths promise.
func TestVerifyAllocs(t *testing.T) {
	f := open(t)
	token := []byte(f.vehicle(t, testVIN))
	id, err := f.Verify(token, Peer{})
	check.OK(t, err)
	perm := f.Permissions(id)
	topic := "v1/" + testVIN + "/up/telemetry"
	ceilings := []struct {
		name string
		most float64
		run  func()
	}{
		{"cached Verify", 0, func() { _, _ = f.Verify(token, Peer{}) }},
		{"Publish", 0, func() { perm.Publish(topic) }},
		{"Receive", 0, func() { perm.Receive("v1/" + testVIN + "/cmd/1/x") }},
		{"Subscribe", 0, func() { perm.Subscribe("v1/" + testVIN + "/cmd/#") }},
		{"Ended", 0, func() { _ = f.Ended(id) }},
		{"Permissions", 1, func() { f.Permissions(id) }},
		{"CheckVIN", 0, func() { _ = CheckVIN(testVIN) }},
	}
	for _, c := range ceilings {
		if got := testing.AllocsPerRun(200, c.run); got > c.most {
			t.Errorf("%s: %v allocations, at most %v", c.name, got, c.most)
		}
	}
}

// TestCacheIsBounded verifies more tokens than the cache has entries, cached and removed ones.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.CacheSize = 32 })
	var tokens [][]byte
	for i := range 200 {
		tokens = append(tokens, []byte(f.vehicle(t, fmt.Sprintf("V%04d", i))))
	}
	for _, token := range slices.Concat(tokens, tokens) {
		_, err := f.Verify(token, Peer{})
		check.OK(t, err)
		if n := f.cache.len(); n > 32 {
			t.Fatalf("%d entries", n)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{ES256, EdDSA} {
		f := open(b, func(c *Config) { c.Algorithm = alg })
		token := []byte(f.vehicle(b, testVIN))
		b.Run(alg+"/cached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := f.Verify(token, Peer{})
				check.OK(b, err)
			}
		})
		b.Run(alg+"/uncached", func(b *testing.B) {
			ring := f.ring.Load()
			b.ReportAllocs()
			for b.Loop() {
				_, err := f.parse(string(token), ring)
				check.OK(b, err)
			}
		})
		b.Run(alg+"/unknown-kid", func(b *testing.B) {
			g := newForge(f)
			g.Header = g.Header.With("kid", "unknown")
			bad := []byte(g.Token())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Verify(bad, Peer{}); err == nil {
					b.Fatal("accepted")
				}
			}
		})
		b.Run(alg+"/issue", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := f.Issue(IssueRequest{Subject: testVIN, Role: RoleVehicle}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package auth

import (
	"maps"
	"slices"
	"testing"

	"cellgate/test/forge"
)

// newForge forges with the authority's first key, on its clock.
func newForge(f *fixture) *forge.Forge {
	key := f.ring.Load().own[0]
	g := &forge.Forge{
		Key: key.private, KID: key.file.KID, Alg: key.file.Alg, KeyPath: keyPath(f.dir, key.file.KID),
		Cell: testCell, OtherCell: otherCell, VIN: testVIN, OtherVIN: otherVIN, Now: f.clock.Now(),
	}
	return g.Init()
}

func TestForgeMakesGoodTokens(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{ES256, EdDSA} {
		f := open(t, func(c *Config) { c.Algorithm = alg })
		g := newForge(f)
		if _, err := f.Verify([]byte(g.Token()), Peer{}); err != nil {
			t.Fatalf("%s: %v: the hostile tokens would be refused for the wrong reason", alg, err)
		}
		g.Claims = g.Claims.With("aud", []string{"elsewhere", testCell}).With("nbf", f.clock.Now().Unix()).With("x", "unknown")
		if _, err := f.Verify([]byte(g.Token()), Peer{}); err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
	}
}

// names returns the sorted keys, so that subtests run in a fixed order.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

package auth

import (
	"errors"
	"fmt"
	"time"
)

// PublicKey is the public part of a key that a gateway of the cell signs with, as it travels to the others.
type PublicKey struct {
	JWK jwk `json:"jwk"`
	// Until is when the key is retired; zero for never.
	Until time.Time `json:"until,omitzero"`
}

// ErrPeerKey says that a key is not one that a gateway of the cell makes.
var ErrPeerKey = errors.New("not a key of a gateway")

// PublicKeys are those of this gateway's own keys.
func (a *Authority) PublicKeys() ([]PublicKey, error) {
	var all []PublicKey
	for _, k := range a.ring.Load().own {
		one, err := encodePublic(k.private.Public())
		if err != nil {
			return nil, err
		}
		one.KID, one.Alg, one.Use = k.file.KID, k.file.Alg, "sig"
		all = append(all, PublicKey{JWK: one, Until: k.held().notAfter})
	}
	return all, nil
}

// SetPeers makes these the keys of the cell's other gateways: what they signed is this cell's own. Whoever calls it knows where the
// keys come from. On an error nothing changes.
func (a *Authority) SetPeers(keys []PublicKey) error {
	before := a.ring.Load().byKID
	peers := make([]heldKey, 0, len(keys))
	for i := range keys {
		k := &keys[i]
		alg, public, err := k.JWK.decode()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPeerKey, err)
		}
		if kid, err := thumbprint(public); err != nil || kid != k.JWK.KID {
			return fmt.Errorf("%w: kid is not the key's thumbprint", ErrPeerKey)
		}
		verify, err := newVerifyKey(k.JWK.KID, alg, public, a.own)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPeerKey, err)
		}
		if old := before[k.JWK.KID].verifyKey; old != nil && old.issuer == a.own && old.alg == alg {
			verify = old // the cache goes by it
		}
		peers = append(peers, heldKey{verifyKey: verify, notAfter: k.Until})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peers = peers
	a.rebuildLocked()
	return nil
}

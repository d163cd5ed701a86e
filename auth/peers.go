package auth

import (
	"errors"
	"fmt"
	"time"
)

// PublicKey is the public part of a gateway's signing key, as sent to the cell's other gateways.
type PublicKey struct {
	JWK jwk `json:"jwk"`
	// Until is when the key is retired; zero means never.
	Until time.Time `json:"until,omitzero"`
}

// errPeerKey means that a key cannot be a gateway's signing key.
var errPeerKey = errors.New("not a key of a gateway")

// PublicKeys returns those of this gateway's own keys.
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

// SetPeers sets the keys of the cell's other gateways, whose signatures count as the cell's own. The caller must have
// authenticated the keys. On an error nothing changes.
func (a *Authority) SetPeers(keys []PublicKey) error {
	before := a.ring.Load().byKID
	peers := make([]heldKey, 0, len(keys))
	for i := range keys {
		k := &keys[i]
		alg, public, err := k.JWK.decode()
		if err != nil {
			return fmt.Errorf("%w: %w", errPeerKey, err)
		}
		if kid, err := thumbprint(public); err != nil || kid != k.JWK.KID {
			return fmt.Errorf("%w: kid is not the key's thumbprint", errPeerKey)
		}
		verify, err := newVerifyKey(k.JWK.KID, alg, public, a.own)
		if err != nil {
			return fmt.Errorf("%w: %w", errPeerKey, err)
		}
		if old := before[k.JWK.KID].verifyKey; old != nil && old.issuer == a.own && old.alg == alg {
			verify = old // the token cache refers to the old object
		}
		peers = append(peers, heldKey{verifyKey: verify, notAfter: k.Until})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peers = peers
	a.rebuildLocked()
	return nil
}

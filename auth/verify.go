package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"time"
)

// maxTokenBytes bounds the size of a token; it is checked first.
const maxTokenBytes = 4 << 10

// Verify checks a token and returns its bearer. It does not keep or log the token; the caller may reuse its bytes.
//
// The order of the checks is part of the contract (RFC 8725): size, form, header, key by kid in memory, algorithm equal
// to the key's, signature, claims; then, on every call, cached or not: times, key still in force, role known,
// revocation, certificate. An unknown kid costs one map lookup.
//
// Every refusal is errUnauthorized; Reason returns its label. A cached token costs a hash and a lookup and does not
// allocate.
func (a *Authority) Verify(token []byte, peer Peer) (Identity, error) {
	id, err := a.verify(token, peer, a.cfg.Now())
	if err != nil {
		reason := Reason(err)
		if reason == Reason(ErrRole) {
			id.Role = "" // arbitrary text; do not audit it
		}
		a.cfg.Metrics.verified.WithLabelValues(reason).Inc()
		a.cfg.Audit.refused(a.cfg.Now(), reason, &id, peer.Address)
		return Identity{}, err
	}
	a.cfg.Metrics.accepted.Inc()
	return id, nil
}

// verify does the work of Verify. With an error, the identity holds what a valid signature covers, if anything, for the
// audit log only.
func (a *Authority) verify(token []byte, peer Peer, now time.Time) (Identity, error) {
	if len(token) == 0 {
		return Identity{}, errNoToken
	}
	if len(token) > maxTokenBytes {
		return Identity{}, bad("too long")
	}
	ring := a.ring.Load()
	hash := tokenHash(sha256.Sum256(token))
	if e := a.cache.get(&hash); e != nil {
		if key := ring.byKID[e.key.kid]; key.verifyKey == e.key {
			a.cfg.Metrics.cacheHits.Inc()
			return e.claims.id, a.check(&e.claims, key, peer, now)
		}
	}
	e, err := a.parse(string(token), ring)
	if err != nil {
		return Identity{}, err
	}
	if err := a.check(&e.claims, ring.byKID[e.key.kid], peer, now); err != nil {
		return e.claims.id, err
	}
	a.cache.put(&hash, e)
	return e.claims.id, nil
}

// parse checks everything about a token that does not change with time.
func (a *Authority) parse(token string, ring *keyring) (*cached, error) {
	head, body, sig, ok := splitToken(token)
	if !ok {
		return nil, bad("not a compact JWS")
	}
	h, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	key := ring.byKID[h.kid].verifyKey
	if key == nil {
		a.hintUnknownKey()
		return nil, bad("unknown key")
	}
	if h.alg != key.alg {
		return nil, bad("algorithm is not the key's")
	}
	if !slices.Contains(key.issuer.types, h.typ) {
		return nil, bad("header has the wrong typ")
	}
	signature, ok := decodeSegment(sig)
	if !ok {
		return nil, bad("signature is not base64url")
	}
	if key.method.Verify(token[:len(head)+1+len(body)], signature, key.public) != nil {
		return nil, bad("signature does not verify")
	}
	c, err := parseClaims(body, key.issuer)
	if err != nil {
		return nil, err
	}
	c.id.KeyID = key.kid
	return &cached{claims: c, key: key}, nil
}

// check checks everything that depends on the time, the policy or the peer.
func (a *Authority) check(c *claims, key heldKey, peer Peer, now time.Time) error {
	id, leeway, maxTTL := &c.id, a.live().Leeway, a.live().MaxTTL
	switch {
	case !now.Before(id.Expires.Add(leeway)):
		return ErrExpired
	case id.Expires.Sub(id.IssuedAt) > maxTTL:
		return bad("lifetime is longer than allowed")
	case now.Before(id.IssuedAt.Add(-a.live().slack())):
		return ErrNotYetValid
	case c.notBefore != 0 && now.Before(time.Unix(c.notBefore, 0).Add(-leeway)):
		return ErrNotYetValid
	case key.retired(now):
		return ErrKeyRetired
	case !a.policy.Load().known(id.Role):
		return ErrRole
	case a.revoked.revoked(id, a.live().slack()):
		return ErrRevoked
	case id.CertThumbprint != "" && !sameCertificate(id.CertThumbprint, peer.Certificate):
		return ErrCertificate
	}
	return nil
}

// Deadline returns when a connection with this identity must have ended or presented a new token; zero means never. It
// is the token's exp, or the end of the leeway for a token that was accepted after its exp. Subtract any jitter from
// it.
func (a *Authority) Deadline(id Identity) time.Time {
	if id.Anonymous || id.Expires.IsZero() {
		return time.Time{}
	}
	if a.cfg.Now().Before(id.Expires) {
		return id.Expires
	}
	return id.Expires.Add(a.live().Leeway)
}

// Thumbprint returns the x5t#S256 of a certificate (RFC 8705, 3.1).
func Thumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func sameCertificate(want string, cert *x509.Certificate) bool {
	if cert == nil {
		return false
	}
	sum := sha256.Sum256(cert.Raw)
	var got [43]byte // 32 bytes in unpadded base64
	base64.RawURLEncoding.Encode(got[:], sum[:])
	return len(want) == len(got) && subtle.ConstantTimeCompare([]byte(want), got[:]) == 1
}

// Anonymous returns the identity of a client on a listener that requires no token: the client identifier is the
// subject. Only the vehicle role and configured roles can be anonymous. An empty identifier is allowed if the role may
// be assigned one.
func (a *Authority) Anonymous(role, clientID string) (Identity, error) {
	p := a.policy.Load()
	if role == RoleService || role == RoleOperator || !p.known(role) {
		return Identity{}, ErrRole
	}
	if role != RoleVehicle && looksLikeVIN(clientID) {
		return Identity{}, fmt.Errorf("%w: a VIN belongs to that vehicle", errClientID)
	}
	id := Identity{Subject: clientID, Role: role, Issuer: a.cfg.Issuer, Anonymous: true, IssuedAt: a.cfg.Now().UTC()}
	// A subject that does not occur in any grant may be any client identifier, as used by third-party test suites.
	if p.grants(&id).placeholders && (role == RoleVehicle || clientID != "") {
		if err := ValidSubject(clientID); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}

// Permissions returns what an identity may do under the roles in force now.
func (a *Authority) Permissions(id Identity) *Permissions {
	return newPermissions(a.policy.Load(), &id)
}

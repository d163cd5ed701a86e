package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// jwk is a public JSON Web Key (RFC 7517; RFC 7518, 6; RFC 8037). It has no private member, so none can be published by
// mistake.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	KID string `json:"kid,omitempty"`
	Alg string `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
}

type jwks struct {
	Keys []jwk `json:"keys"`
}

func encodePublic(public crypto.PublicKey) (jwk, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		point, err := p.Bytes() // 0x04, X, Y
		if err != nil || p.Curve != elliptic.P256() {
			return jwk{}, errors.New("not a point on P-256")
		}
		return jwk{Kty: "EC", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:])}, nil
	case ed25519.PublicKey:
		return jwk{Kty: "OKP", Crv: "Ed25519", X: b64(p)}, nil
	}
	return jwk{}, fmt.Errorf("key type %T is not one that this package makes", public)
}

// thumbprint returns the key's RFC 7638 thumbprint, base64url of a SHA-256. It is unique to the key, so a file whose
// key was replaced no longer matches its name.
func thumbprint(public crypto.PublicKey) (string, error) {
	k, err := encodePublic(public)
	if err != nil {
		return "", err
	}
	canonical := fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q}`, k.Crv, k.Kty, k.X)
	if k.Kty == "EC" {
		canonical = fmt.Sprintf(`{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.Crv, k.Kty, k.X, k.Y)
	}
	sum := sha256.Sum256([]byte(canonical))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// newVerifyKey binds a public key to its algorithm.
func newVerifyKey(kid, alg string, public crypto.PublicKey, iss *issuer) (*verifyKey, error) {
	k := &verifyKey{kid: kid, alg: alg, public: public, issuer: iss}
	fits := false
	switch alg {
	case ES256:
		p, ok := public.(*ecdsa.PublicKey)
		fits = ok && p.Curve == elliptic.P256()
		k.method = jwt.SigningMethodES256
	case EdDSA:
		_, fits = public.(ed25519.PublicKey)
		k.method = jwt.SigningMethodEdDSA
	case "RS256":
		_, fits = public.(*rsa.PublicKey)
		k.method = jwt.SigningMethodRS256
	case "PS256":
		_, fits = public.(*rsa.PublicKey)
		k.method = jwt.SigningMethodPS256
	default:
		return nil, fmt.Errorf("algorithm %.16q is not one of ES256, EdDSA, RS256, PS256", alg)
	}
	if !fits {
		return nil, fmt.Errorf("key does not fit algorithm %s", alg)
	}
	return k, nil
}

// decode returns the public key of a JWK and its algorithm: its alg member, or the only one possible for its type. An
// RSA key without alg is ambiguous and refused.
func (k *jwk) decode() (alg string, public crypto.PublicKey, err error) {
	switch {
	case k.Kty == "EC" && k.Crv == "P-256":
		alg, public, err = k.decodeEC()
	case k.Kty == "OKP" && k.Crv == "Ed25519":
		x, ok := decodeSegment(k.X)
		if !ok || len(x) != ed25519.PublicKeySize {
			return "", nil, errors.New("x is not an Ed25519 key")
		}
		alg, public = EdDSA, ed25519.PublicKey(x)
	case k.Kty == "RSA":
		alg, public, err = k.decodeRSA()
	default:
		return "", nil, errors.New("key type or curve is not supported")
	}
	if err != nil {
		return "", nil, err
	}
	if k.Alg != "" {
		alg = k.Alg
	}
	return alg, public, nil
}

func (k *jwk) decodeEC() (string, crypto.PublicKey, error) {
	x, okX := decodeSegment(k.X)
	y, okY := decodeSegment(k.Y)
	if !okX || !okY || len(x) != 32 || len(y) != 32 {
		return "", nil, errors.New("x and y are not coordinates on P-256")
	}
	point := append(append([]byte{4}, x...), y...)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return "", nil, errors.New("x and y are not a point on P-256")
	}
	return ES256, public, nil
}

// decodeRSA accepts 2,048 to 8,192 bits: fewer are weak, more make each verification expensive.
func (k *jwk) decodeRSA() (string, crypto.PublicKey, error) {
	n, okN := decodeSegment(k.N)
	e, okE := decodeSegment(k.E)
	if !okN || !okE || len(e) == 0 || len(e) > 4 {
		return "", nil, errors.New("n and e are not an RSA key")
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if bits := public.N.BitLen(); bits < 2048 || bits > 8192 || public.E < 3 || public.E%2 == 0 {
		return "", nil, errors.New("RSA key is not of 2048 to 8192 bits with an odd exponent")
	}
	return "", public, nil
}

const maxJWKSKeys = 64

// parseJWKS reads the signature keys of an issuer. It skips keys of other uses or unsupported types (RFC 7517, 5). A
// set without any usable key is an error, so that a broken answer never replaces a good set.
func parseJWKS(b []byte, iss *issuer) ([]*verifyKey, error) {
	var set jwks
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	if len(set.Keys) > maxJWKSKeys {
		return nil, fmt.Errorf("more than %d keys", maxJWKSKeys)
	}
	seen := make(map[string]bool)
	var keys []*verifyKey
	for i := range set.Keys {
		k := &set.Keys[i]
		if k.KID == "" || len(k.KID) > maxTokenIDBytes || (k.Use != "" && k.Use != "sig") {
			continue
		}
		if seen[k.KID] {
			return nil, errors.New("two keys share a kid")
		}
		seen[k.KID] = true
		alg, public, err := k.decode()
		if err != nil || !slices.Contains(iss.algs, alg) {
			continue
		}
		if v, err := newVerifyKey(k.KID, alg, public, iss); err == nil {
			keys = append(keys, v)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no usable signature key")
	}
	return keys, nil
}

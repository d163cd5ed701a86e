package forge

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
)

// Canary is in every hostile token, wherever the attacker can put text.
const Canary = "CANARY-7f3a91"

// B64 is base64url without padding.
func B64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Digest is the SHA-256 of b.
func Digest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// Obj is a JSON object whose members keep their order and may repeat.
type Obj []Member

// Member is one member of an Obj. A value of type Raw is written as it is.
type Member struct {
	Name  string
	Value any
}

// Raw is text that is written as JSON without encoding.
type Raw string

// JSON is the object's text.
func (o Obj) JSON() string {
	parts := make([]string, len(o))
	for i, m := range o {
		value, ok := m.Value.(Raw)
		if !ok {
			b, err := json.Marshal(m.Value)
			if err != nil {
				panic(err)
			}
			value = Raw(b)
		}
		parts[i] = fmt.Sprintf("%q:%s", m.Name, value)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// With returns a copy with a member replaced, or added.
func (o Obj) With(name string, value any) Obj {
	c := slices.Clone(o)
	for i := range c {
		if c[i].Name == name {
			c[i].Value = value
			return c
		}
	}
	return append(c, Member{name, value})
}

// Without returns a copy without the members of that name.
func (o Obj) Without(name string) Obj {
	return slices.DeleteFunc(slices.Clone(o), func(m Member) bool { return m.Name == name })
}

// Plus adds a member even if one of that name exists.
func (o Obj) Plus(name string, value any) Obj { return append(slices.Clone(o), Member{name, value}) }

// Forge has an authority's own key, so that its tokens are genuine except for what it falsifies on purpose.
type Forge struct {
	Key      crypto.Signer
	KID, Alg string
	// KeyPath is the file of the key, which a hostile kid names.
	KeyPath string
	// Cell is the audience; the issuer is "cellgate/" followed by Cell.
	Cell, OtherCell string
	VIN, OtherVIN   string
	Now             time.Time
	// Header and Claims are those of the token that Token returns: by default a valid token of vehicle VIN.
	Header, Claims Obj
}

// Init sets Header and Claims to those of a valid token and returns the forge.
func (f *Forge) Init() *Forge {
	now := f.Now.Unix()
	f.Header = Obj{{"alg", f.Alg}, {"kid", f.KID}, {"typ", "JWT"}}
	f.Claims = Obj{
		{"iss", "cellgate/" + f.Cell},
		{"aud", f.Cell},
		{"sub", f.VIN},
		{"role", "vehicle"},
		{"iat", now},
		{"exp", now + 3600},
		{"jti", "forged-1"},
	}
	return f
}

// Sign returns a compact JWS of two texts, signed with the authority's key.
func (f *Forge) Sign(header, claims string) string {
	input := B64([]byte(header)) + "." + B64([]byte(claims))
	return input + "." + B64(SignBytes(f.Key, []byte(input)))
}

// Token returns the signed token of Header and Claims.
func (f *Forge) Token() string { return f.Sign(f.Header.JSON(), f.Claims.JSON()) }

// SignBytes signs as RFC 7518 says: r and s of 32 bytes each for ES256.
func SignBytes(key crypto.Signer, input []byte) []byte {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, Digest(input))
		if err != nil {
			panic(err)
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	case ed25519.PrivateKey:
		return ed25519.Sign(k, input)
	case *rsa.PrivateKey:
		out, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, Digest(input))
		if err != nil {
			panic(err)
		}
		return out
	}
	panic("unknown key")
}

func hs256(key, input []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(input)
	return m.Sum(nil)
}

// AttackerKey returns a key that no authority has.
func AttackerKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check.OK(t, err)
	return k
}

// publicBytes is the PEM of a public key, the secret of the classic HS256 confusion.
func publicBytes(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	check.OK(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// publicJWK is a public key as a header's jwk has it.
func publicJWK(t testing.TB, key *ecdsa.PrivateKey) Obj {
	t.Helper()
	point, err := key.PublicKey.Bytes() // 0x04, X, Y
	check.OK(t, err)
	return Obj{{"kty", "EC"}, {"crv", "P-256"}, {"x", B64(point[1:33])}, {"y", B64(point[33:])}}
}

// segments splits a good token.
func segments(token string) (header, claims, signature string) {
	parts := strings.Split(token, ".")
	return parts[0], parts[1], parts[2]
}

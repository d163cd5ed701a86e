package auth

import (
	"slices"
	"strings"
	"time"
)

// Limits of single claims. The size of the whole token is checked before anything is parsed.
const (
	maxTokenIDBytes = 128
	maxScopes       = 32
	maxAudiences    = 16
)

// claimIssuedAfter is the cell's own claim for [Identity.IssuedAfter], separated by spaces.
const claimIssuedAfter = "issued_after"

// claims are a token's claims, checked for form but not against clock, revocations and peer. They are valid as long as
// the token's signature is, so the cache stores them.
type claims struct {
	id        Identity
	notBefore int64 // 0 when absent
}

// header is a JWS header that passed the checks of parseHeader.
type header struct{ alg, kid, typ string }

// parseHeader reads the protected header. It refuses members that make a verifier fetch keys, decrypt, unpack or
// understand extensions, although RFC 7515 allows ignoring most of them: no supported issuer needs them.
func parseHeader(segment string) (header, error) {
	raw, ok := decodeSegment(segment)
	if !ok {
		return header{}, bad("header is not base64url")
	}
	obj, err := parseObject(raw)
	if err != nil {
		return header{}, bad("header: " + err.Error())
	}
	for _, name := range [...]string{"crit", "jku", "jwk", "x5u", "x5c", "zip", "enc", "b64", "cty"} {
		if _, found := obj[name]; found {
			return header{}, bad("header has a parameter that is not accepted")
		}
	}
	var h header
	if h.alg, ok = obj["alg"].(string); !ok {
		return header{}, bad("header has no alg")
	}
	if h.kid, ok = obj["kid"].(string); !ok || h.kid == "" {
		return header{}, bad("header has no kid")
	}
	if h.typ, ok = obj["typ"].(string); !ok {
		return header{}, bad("header has no typ")
	}
	return h, nil
}

// parseClaims reads the claims of a token whose signature has been verified with a key of iss.
func parseClaims(segment string, iss *issuer) (claims, error) {
	raw, ok := decodeSegment(segment)
	if !ok {
		return claims{}, bad("claims are not base64url")
	}
	obj, err := parseObject(raw)
	if err != nil {
		return claims{}, bad("claims: " + err.Error())
	}
	var c claims
	if s, _ := obj["iss"].(string); s != iss.name {
		return claims{}, bad("wrong issuer")
	}
	c.id.Issuer = iss.name
	if !audienceHas(obj["aud"], iss.audience) {
		return claims{}, bad("wrong audience")
	}
	if c.id.Subject, _ = obj["sub"].(string); ValidSubject(c.id.Subject) != nil {
		return claims{}, bad("missing or invalid sub")
	}
	if c.id.Role, _ = obj["role"].(string); c.id.Role == "" {
		return claims{}, bad("missing role")
	}
	if !iss.allowsRole(c.id.Role) {
		return claims{}, bad("issuer may not grant this role")
	}
	c.id.TokenID, _ = obj["jti"].(string)
	if c.id.TokenID == "" || len(c.id.TokenID) > maxTokenIDBytes {
		return claims{}, bad("missing or invalid jti")
	}
	if err := c.times(obj); err != nil {
		return claims{}, err
	}
	if c.id.Scopes, err = parseScopes(obj["scope"], iss); err != nil {
		return claims{}, err
	}
	if c.id.Commands, err = parseCommandLimit(obj); err != nil {
		return claims{}, err
	}
	if !iss.external {
		known, _ := obj[claimIssuedAfter].(string)
		c.id.IssuedAfter = strings.Fields(known)
	}
	c.id.CertThumbprint, err = parseConfirmation(obj)
	return c, err
}

func (c *claims) times(obj map[string]any) error {
	iat, ok := numericDate(obj["iat"])
	if !ok {
		return bad("missing or invalid iat")
	}
	exp, ok := numericDate(obj["exp"])
	if !ok {
		return bad("missing or invalid exp")
	}
	if exp <= iat {
		return bad("exp is not after iat")
	}
	if v, found := obj["nbf"]; found {
		if c.notBefore, ok = numericDate(v); !ok {
			return bad("invalid nbf")
		}
	}
	c.id.IssuedAt = time.Unix(iat, 0).UTC()
	c.id.Expires = time.Unix(exp, 0).UTC()
	return nil
}

// audienceHas reports whether aud, a string or a list of strings (RFC 7519, 4.1.3), contains want.
func audienceHas(aud any, want string) bool {
	switch v := aud.(type) {
	case string:
		return v == want
	case []any:
		if len(v) > maxAudiences {
			return false
		}
		found := false
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return false
			}
			found = found || s == want
		}
		return found
	}
	return false
}

// parseScopes reads the space-separated scope claim (RFC 8693, 4.2) without the scopes that the issuer may not grant.
func parseScopes(v any, iss *issuer) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	s, ok := v.(string)
	if !ok {
		return nil, bad("invalid scope")
	}
	fields := strings.Fields(s)
	if len(fields) > maxScopes {
		return nil, bad("too many scopes")
	}
	kept := fields[:0]
	for _, f := range fields {
		if knownScope(f) && iss.allowsScope(f) && !slices.Contains(kept, f) {
			kept = append(kept, f)
		}
	}
	return kept, nil
}

// parseConfirmation reads cnf.x5t#S256. It refuses other kinds of confirmation, which cannot be checked here: a token
// that requires proof of possession must not pass without it (RFC 7800, 3.1).
func parseConfirmation(obj map[string]any) (string, error) {
	v, found := obj["cnf"]
	if !found {
		return "", nil
	}
	cnf, ok := v.(map[string]any)
	if !ok || len(cnf) != 1 {
		return "", bad("unsupported cnf")
	}
	s, _ := cnf["x5t#S256"].(string)
	if raw, ok := decodeSegment(s); !ok || len(raw) != 32 {
		return "", bad("unsupported cnf")
	}
	return s, nil
}

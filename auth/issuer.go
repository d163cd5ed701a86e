package auth

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"
)

// ExternalIssuer is another party whose tokens the cell accepts, such as the centre's identity provider for operators.
// It may grant only what is listed.
type ExternalIssuer struct {
	// Issuer is the exact value of the claim iss.
	Issuer string
	// JWKSFile is a key set on disk, read again when it changes. JWKSURL is the alternative: it is fetched in the
	// background, over https except on loopback, and a copy is stored on disk.
	JWKSFile, JWKSURL string
	// Audience is the value that aud must contain; the cell id if empty.
	Audience string
	// Algorithms limits the algorithms, out of ES256, EdDSA, RS256 and PS256; ES256 and EdDSA if empty.
	Algorithms []string
	// Types are the accepted values of the header's typ; "JWT" and "at+jwt" (RFC 9068) if empty.
	Types []string
	// Roles and Scopes are what its tokens may grant. A token with another role is refused; other scopes are ignored.
	Roles, Scopes []string
	// Refresh is the interval at which the URL is fetched, at least 1 second.
	Refresh time.Duration
}

// issuer holds the rules against which claims are checked.
type issuer struct {
	name, audience string
	types          []string
	external       bool
	algs           []string
	roles, scopes  []string
}

// allowsRole reports whether the issuer may grant a role. Whether the role exists is checked on each use, because
// configured roles can be reloaded.
func (i *issuer) allowsRole(role string) bool {
	return !i.external || slices.Contains(i.roles, role)
}

func (i *issuer) allowsScope(scope string) bool {
	return !i.external || slices.Contains(i.scopes, scope)
}

// validate checks the configuration of an external issuer.
func (e *ExternalIssuer) validate() error {
	switch {
	case e.Issuer == "":
		return errors.New("external issuer has no name")
	case (e.JWKSFile == "") == (e.JWKSURL == ""):
		return fmt.Errorf("external issuer %q: give a JWKS file or a URL, not both", e.Issuer)
	case len(e.Roles) == 0:
		return fmt.Errorf("external issuer %q: list the roles that it may grant", e.Issuer)
	case e.Refresh < time.Second:
		return fmt.Errorf("external issuer %q: refresh is under a second", e.Issuer)
	}
	for _, alg := range e.Algorithms {
		if !slices.Contains([]string{ES256, EdDSA, "RS256", "PS256"}, alg) {
			return fmt.Errorf("external issuer %q: algorithm %q is not one of ES256, EdDSA, RS256, PS256", e.Issuer, alg)
		}
	}
	for _, scope := range e.Scopes {
		if !knownScope(scope) {
			return fmt.Errorf("external issuer %q: unknown scope %q", e.Issuer, scope)
		}
	}
	if e.JWKSURL == "" {
		return nil
	}
	return validJWKSURL(e.Issuer, e.JWKSURL)
}

// validJWKSURL requires https, because the answer decides who is admitted; plain http is allowed for loopback
// addresses.
func validJWKSURL(name, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil {
		return fmt.Errorf("external issuer %q: JWKS URL is not valid", name)
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback())
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("external issuer %q: JWKS URL must be https", name)
	}
	return nil
}

// issuer returns the issuer with defaults applied.
func (e *ExternalIssuer) issuer(cell string) *issuer {
	i := &issuer{
		name: e.Issuer, audience: e.Audience, external: true,
		types: e.Types, algs: e.Algorithms, roles: e.Roles, scopes: e.Scopes,
	}
	if i.audience == "" {
		i.audience = cell
	}
	if len(i.types) == 0 {
		i.types = []string{"JWT", "at+jwt"}
	}
	if len(i.algs) == 0 {
		i.algs = []string{ES256, EdDSA}
	}
	return i
}

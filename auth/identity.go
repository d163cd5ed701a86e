package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cellgate/broker/shared/message"
)

// Role is the name of a role, built-in or configured.
type Role = string

// The built-in roles. Their grants are fixed: see [Permissions].
const (
	RoleVehicle  Role = "vehicle"
	RoleService  Role = "service"
	RoleOperator Role = "operator"
)

// maxSubjectBytes is the longest subject issued or accepted. It fits into an MQTT client identifier, a topic level and
// a log line.
const maxSubjectBytes = 128

// Identity is the verified bearer of a token. It is a value and can be copied. Copies share its lists, which must not
// be changed.
type Identity struct {
	Subject string
	Role    Role
	TokenID string // jti
	Issuer  string
	KeyID   string
	Scopes  []string
	// Commands limits the commands that the token may send.
	Commands CommandLimit
	// IssuedAt and Expires are in whole seconds, in UTC. Expires is zero for an anonymous identity, which never
	// expires.
	IssuedAt time.Time
	Expires  time.Time
	// IssuedAfter names recent revocations that the cell knew when it issued the token; they do not revoke it. Only the
	// cell's own tokens carry it.
	IssuedAfter []string
	// CertThumbprint is the claim cnf.x5t#S256: base64url of the SHA-256 of the client certificate that
	// the token is bound to (RFC 8705, 3.1), or "".
	CertThumbprint string
	// Anonymous marks an identity without a token.
	Anonymous bool
}

// SessionKey names the session of this identity's client with a client identifier; see message.SessionKey.
func (id *Identity) SessionKey(clientID string) string {
	if id.Role == RoleVehicle {
		return clientID
	}
	return message.SessionKey(clientID, id.Role, id.Issuer)
}

// HasScope reports whether the token carries a scope.
func (id *Identity) HasScope(scope string) bool { return slices.Contains(id.Scopes, scope) }

// Peer is what is known about the peer of a connection.
type Peer struct {
	// Address is for the audit log only.
	Address string
	// Certificate is the client's certificate if TLS verified one, otherwise nil.
	Certificate *x509.Certificate
}

// errUnauthorized is wrapped by every refusal of Verify.
var errUnauthorized = errors.New("unauthorized")

// Refusals. Each wraps errUnauthorized. None contains any part of the token.
var (
	// errNoToken means that there was no token.
	errNoToken = refusal("no-token", "no token")
	// ErrBadToken means that the token is malformed, forged, or not for this cell.
	ErrBadToken = refusal("bad-token", "bad token")
	// ErrExpired means that the token's exp is past by more than the leeway.
	ErrExpired = refusal("expired", "token has expired")
	// ErrNotYetValid means that the token's iat or nbf is ahead by more than the leeway.
	ErrNotYetValid = refusal("not-yet-valid", "token is not valid yet")
	// ErrRevoked means that the token, or all tokens of its subject or time, were revoked.
	ErrRevoked = refusal("revoked", "token is revoked")
	// ErrKeyRetired means that the key that signed the token is retired.
	ErrKeyRetired = refusal("key-retired", "signing key is retired")
	// ErrCertificate means that the token is bound to another client certificate.
	ErrCertificate = refusal("certificate", "token is bound to another certificate")
	// ErrRole means that this gateway does not know the token's role.
	ErrRole = refusal("role", "unknown role")
	// errClientID means that the identity may not use this client identifier.
	errClientID = refusal("client-id", "client identifier not allowed")
	// errUsername means that the identity may not use this user name.
	errUsername = refusal("user-name", "user name not allowed")
	// errSubject means that a subject is empty, too long or contains a character with a meaning in topics.
	errSubject = refusal("subject", "invalid subject")
)

// refused is an error with a short label for metrics and the audit log.
type refused struct{ reason, text string }

func refusal(reason, text string) error { return &refused{reason, text} }

func (e *refused) Error() string        { return e.text }
func (e *refused) Is(target error) bool { return target == errUnauthorized }

// Reason returns the label of a refusal for metrics: "expired", "revoked", "bad-token" and so on; "other" for an error
// of another package, "" for nil. The set of labels is fixed.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	var r *refused
	if errors.As(err, &r) {
		return r.reason
	}
	return "other"
}

// bad returns ErrBadToken with a constant explanation, which must not contain any part of the token.
func bad(why string) error { return fmt.Errorf("%w: %s", ErrBadToken, why) }

// ValidSubject checks a token subject: 1 to 128 bytes of UTF-8 without '+', '#', '/', control or invisible formatting
// characters, or surrounding spaces. So it is one literal topic level, and unambiguous in a log.
func ValidSubject(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: empty", errSubject)
	case len(s) > maxSubjectBytes:
		return fmt.Errorf("%w: longer than %d bytes", errSubject, maxSubjectBytes)
	case !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError):
		return fmt.Errorf("%w: not UTF-8", errSubject)
	case strings.ContainsAny(s, "+#/"):
		return fmt.Errorf("%w: contains '+', '#' or '/'", errSubject)
	case s[0] == '$':
		return fmt.Errorf("%w: begins with '$'", errSubject)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("%w: surrounded by spaces", errSubject)
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return fmt.Errorf("%w: contains a control character", errSubject)
		}
	}
	return nil
}

package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// errInvalidRequest is wrapped by every refusal of Issue except ErrRevoked.
var errInvalidRequest = errors.New("invalid token request")

// IssueRequest asks for a token.
type IssueRequest struct {
	// Subject is the VIN, or the name of the service or operator.
	Subject string
	// Role is a built-in or configured role.
	Role Role
	// Scopes are for services and operators; an operator without any gets all.
	Scopes []string
	// Commands limits the commands that the token may send; not for vehicles.
	Commands CommandLimit
	// TTL is the token's lifetime, at most Config.MaxTTL; 0 means Config.TTL.
	TTL time.Duration
	// CertThumbprint binds the token to a client certificate: see Thumbprint.
	CertThumbprint string
	Caller
}

// Issue makes a token and records it, without the token itself, in the audit log. It needs only the key in memory. A
// subject that is locked out by a revocation gets ErrRevoked. If its tokens were revoked up to the present second, the
// new token is dated to the next one.
func (a *Authority) Issue(req IssueRequest) (string, Identity, error) {
	now := a.cfg.Now()
	id, err := a.identityFor(&req, now)
	if err != nil {
		a.cfg.Metrics.issueRefused.WithLabelValues(Reason(err)).Inc()
		return "", Identity{}, err
	}
	key := a.ring.Load().signer(now)
	id.KeyID = key.file.KID
	c := jwt.MapClaims{
		"iss": id.Issuer, "aud": a.cfg.Cell, "sub": id.Subject, "role": id.Role,
		"iat": id.IssuedAt.Unix(), "exp": id.Expires.Unix(), "jti": id.TokenID,
	}
	if len(id.Scopes) > 0 {
		c["scope"] = strings.Join(id.Scopes, " ")
	}
	if len(id.IssuedAfter) > 0 {
		c[claimIssuedAfter] = strings.Join(id.IssuedAfter, " ")
	}
	if id.Commands.Names != nil {
		c["command_names"] = id.Commands.Names
	}
	if id.Commands.VINs != nil {
		c["command_vins"] = id.Commands.VINs
	}
	if id.CertThumbprint != "" {
		c["cnf"] = map[string]string{"x5t#S256": id.CertThumbprint}
	}
	t := jwt.NewWithClaims(key.verify.method, c)
	t.Header["kid"] = id.KeyID
	token, err := t.SignedString(key.private)
	if err != nil {
		return "", Identity{}, fmt.Errorf("auth: sign token: %w", err)
	}
	if len(token) > maxTokenBytes {
		return "", Identity{}, fmt.Errorf("%w: the token would be over %d bytes; a list of VINs can have a name in auth.vin_lists", errInvalidRequest, maxTokenBytes)
	}
	a.cfg.Metrics.issued.WithLabelValues(roleLabel(id.Role)).Inc()
	a.cfg.Audit.Write(AuditEvent{
		At: now, Event: AuditIssue, Subject: id.Subject, Role: id.Role, TokenID: id.TokenID, KeyID: id.KeyID,
		Scope: strings.Join(id.Scopes, " "), Expires: id.Expires, Issuer: id.Issuer, Caller: req.Caller,
	})
	return token, id, nil
}

// identityFor checks a request and returns the identity for its token.
func (a *Authority) identityFor(req *IssueRequest, now time.Time) (Identity, error) {
	if err := a.validateRequest(req); err != nil {
		return Identity{}, err
	}
	ttl := req.TTL
	if ttl == 0 {
		ttl = a.live().TTL
	}
	if ttl < time.Second || ttl > a.live().MaxTTL {
		return Identity{}, fmt.Errorf("%w: ttl %s is not between 1s and %s", errInvalidRequest, ttl, a.live().MaxTTL)
	}
	of := owner{a.cfg.Issuer, req.Role, req.Subject}
	at, known := a.revoked.issuable(of, now.UTC().Truncate(time.Second), a.live().slack())
	if at.After(now.Add(time.Second)) {
		return Identity{}, ErrRevoked
	}
	id := Identity{
		Subject: req.Subject, Role: req.Role, TokenID: rand.Text(), Issuer: a.cfg.Issuer, Scopes: req.Scopes, Commands: req.Commands,
		IssuedAt: at, Expires: at.Add(ttl.Truncate(time.Second)), IssuedAfter: known, CertThumbprint: req.CertThumbprint,
	}
	if req.Role == RoleOperator && len(req.Scopes) == 0 {
		id.Scopes = Scopes()
	}
	return id, nil
}

func (a *Authority) validateRequest(req *IssueRequest) error {
	if !a.policy.Load().known(req.Role) {
		return fmt.Errorf("%w: unknown role %q", errInvalidRequest, req.Role)
	}
	if err := ValidSubject(req.Subject); err != nil {
		return fmt.Errorf("%w: %w", errInvalidRequest, err)
	}
	if req.Role != RoleVehicle && looksLikeVIN(req.Subject) {
		return fmt.Errorf("%w: %q has the form of a VIN, a name for vehicles only", errInvalidRequest, req.Subject)
	}
	if len(req.Scopes) > 0 && req.Role != RoleService && req.Role != RoleOperator {
		return fmt.Errorf("%w: role %q takes no scopes", errInvalidRequest, req.Role)
	}
	for _, s := range req.Scopes {
		if !knownScope(s) {
			return fmt.Errorf("%w: unknown scope %q: use %s", errInvalidRequest, s, strings.Join(Scopes(), ", "))
		}
	}
	if err := a.validateCommands(req); err != nil {
		return fmt.Errorf("%w: %w", errInvalidRequest, err)
	}
	if raw, ok := decodeSegment(req.CertThumbprint); req.CertThumbprint != "" && (!ok || len(raw) != 32) {
		return fmt.Errorf("%w: certificate thumbprint is not base64url of a SHA-256", errInvalidRequest)
	}
	return nil
}

// validateCommands checks the command limit of a request. It refuses one for a token that cannot send commands.
func (a *Authority) validateCommands(req *IssueRequest) error {
	if req.Commands.none() {
		return nil
	}
	builtin := req.Role == RoleService || req.Role == RoleOperator
	every := req.Role == RoleOperator && len(req.Scopes) == 0
	if req.Role == RoleVehicle || builtin && !every && !slices.Contains(req.Scopes, ScopeCommandSend) {
		return errors.New("limits of commands are for tokens that may send them: add the scope " + ScopeCommandSend)
	}
	if list := a.policy.Load().lists.unknown(&req.Commands); list != "" {
		return fmt.Errorf("there is no list of VINs %q in auth.vin_lists", list)
	}
	return req.Commands.check()
}

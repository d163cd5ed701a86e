package auth

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"cellgate/broker/shared/complete"
)

// The kinds of audit events.
const (
	AuditIssue   = "issue"
	AuditRefresh = "refresh" // a connection showed a new token
	AuditRevoke  = "revoke"
	AuditRotate  = "rotate"
	AuditRefuse  = "refuse" // a connection or call was refused

	AuditDisconnect    = "disconnect" // an operator sent a vehicle away
	AuditSession       = "session"    // an operator ended a session
	AuditDrain         = "drain"
	AuditForget        = "gateway-forget" // an operator said that a gateway is gone for good
	AuditRules         = "rules"          // a rule set went into force, or was asked for
	AuditConfiguration = "configuration"
	AuditTrace         = "trace"     // somebody looks on what happens to messages
	AuditSync          = "sync"      // an operator paused lanes to the centre, or had them go on
	AuditSkip          = "sync-skip" // an operator had the sync worker go on after records that are gone
)

// Caller is who asked for something, for the audit log.
type Caller struct {
	// By is role and name for a caller of the API, else what acted, such as "certificate".
	By       string `json:"by,omitempty"`
	ByRole   string `json:"by_role,omitempty"`
	ByIssuer string `json:"by_iss,omitempty"`
	Address  string `json:"from,omitempty"`
}

// CallerOf is who calls the API.
func CallerOf(r *http.Request) Caller {
	id, _ := IdentityFrom(r.Context())
	return Caller{By: id.Role + " " + id.Subject, ByRole: id.Role, ByIssuer: id.Issuer, Address: r.RemoteAddr}
}

// AuditEvent is one line of the audit log. It has no field that could hold a token; Subject and TokenID are
// written only once a signature has vouched for them, or when the cell itself made them.
type AuditEvent struct {
	At      time.Time `json:"at"`
	Cell    string    `json:"cell,omitempty"`
	Event   string    `json:"event"`
	Subject string    `json:"sub,omitempty"`
	Role    string    `json:"role,omitempty"`
	Issuer  string    `json:"iss,omitempty"`
	TokenID string    `json:"jti,omitempty"`
	KeyID   string    `json:"kid,omitempty"`
	Scope   string    `json:"scope,omitempty"`
	Expires time.Time `json:"exp,omitzero"`
	// What is what was asked for, such as a call of the API, and Outcome what came of it.
	What    string `json:"what,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Caller
	// Of a request for a command, or for its end; Outcome is accepted, repeated, cancelled or refused.
	Origin    string `json:"origin,omitempty"` // the entrance: http, mqtt, kafka or gateway
	VIN       string `json:"vin,omitempty"`
	CommandID string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`

	Reason string `json:"reason,omitempty"`
	// Suppressed counts the lines like this one that were left out since the last.
	Suppressed int `json:"suppressed,omitempty"`
}

// repeats reports whether vehicles make such events by themselves, as often as they like.
func (e *AuditEvent) repeats() bool {
	return e.Event == AuditRefresh || e.Event == AuditIssue && e.Role == RoleVehicle
}

// security reports whether the event is kept apart: what somebody with a privilege did. Nothing that a vehicle or a
// stranger does may push it out of the files that are kept, nor may the commands of services.
func (e *AuditEvent) security() bool {
	switch e.Event {
	case AuditIssue:
		return e.Role != RoleVehicle
	case AuditRevoke, AuditRotate, AuditDisconnect, AuditDrain, AuditForget, AuditRules, AuditConfiguration, AuditSkip, AuditSync:
		return true
	}
	return false
}

// Lines beyond these rates are counted, not written: refusals per reason, what repeats per subject.
const (
	refusalsPerSecond = 10
	refusalsBurst     = 50
	maxRefusalReasons = 64 // reasons are constants: never met
	repeatsPerSecond  = 0.1
	repeatsBurst      = 5
	maxRepeating      = 16_384 // subjects; the one that has been quiet longest is forgotten
)

// Audit writes the audit log: one JSON object a line. Security events go to a file of their own as well. A nil *Audit
// writes nothing. It is safe for concurrent use.
type Audit struct {
	cell    string
	log     *slog.Logger
	metrics *Metrics

	mu        sync.Mutex // guards below; a line is written whole under it
	w         io.WriteCloser
	security  io.WriteCloser
	failing   bool
	refusals  buckets // by reason
	repeating buckets // by event and subject
}

// AuditOptions says where the audit log goes.
type AuditOptions struct {
	// Path is the file, mode 0600; security events are also written to {Path without .log}-security.log. Each is
	// rotated at MaxMegabytes and the last MaxFiles are kept, compressed.
	Path                   string
	MaxMegabytes, MaxFiles int
	Cell                   string
	Log                    *slog.Logger
	Metrics                *Metrics
}

// NewAudit makes an audit log. A file is created at its first line.
func NewAudit(o AuditOptions) (*Audit, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	file := func(path string) io.WriteCloser {
		return &lumberjack.Logger{Filename: path, MaxSize: o.MaxMegabytes, MaxBackups: o.MaxFiles, Compress: true}
	}
	return newAudit(file(o.Path), file(strings.TrimSuffix(o.Path, ".log")+"-security.log"), o), nil
}

func newAudit(all, security io.WriteCloser, o AuditOptions) *Audit {
	return &Audit{
		cell: o.Cell, log: o.Log, metrics: o.Metrics, w: all, security: security,
		refusals: newBuckets(maxRefusalReasons), repeating: newBuckets(maxRepeating),
	}
}

// Write writes one event; of those that one subject repeats, a sample, which tells how many were left out. That it
// cannot be written is logged and counted, never an error of what it tells of: refusing vehicles because a log is full
// would be the greater harm.
func (l *Audit) Write(e AuditEvent) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.repeats() {
		key := e.Event + "\x00" + e.Issuer + "\x00" + e.Role + "\x00" + e.Subject
		if !l.sampledLocked(l.repeating.get(key, repeatsPerSecond, repeatsBurst), &e) {
			return
		}
	}
	l.writeLocked(e)
}

// sampledLocked reports whether a line is written, and takes what was left out before into it.
func (l *Audit) sampledLocked(b *bucket, e *AuditEvent) bool {
	if !b.limit.AllowN(e.At, 1) {
		b.suppressed++
		l.metrics.auditDropped.WithLabelValues("sampled").Inc()
		return false
	}
	e.Suppressed, b.suppressed = b.suppressed, 0
	return true
}

func (l *Audit) writeLocked(e AuditEvent) {
	e.Cell = l.cell
	e.At = e.At.UTC().Truncate(time.Millisecond)
	line, err := json.Marshal(e)
	if err == nil {
		line = append(line, '\n')
		_, err = l.w.Write(line)
		if e.security() {
			_, failed := l.security.Write(line)
			err = errors.Join(err, failed)
		}
	}
	if err != nil {
		l.metrics.auditDropped.WithLabelValues("error").Inc()
	}
	if err != nil && !l.failing {
		l.log.Error("audit log cannot be written", "err", err)
	}
	l.failing = err != nil
}

// Refuse writes a refusal that Verify did not make, for example of a client identifier or a wrong cell.
// reason is a constant label. Under flood only some lines are written, and each tells how many were left
// out.
func (l *Audit) Refuse(now time.Time, reason string, id Identity, peer Peer) {
	l.refused(now, reason, &id, peer.Address)
}

func (l *Audit) refused(now time.Time, reason string, id *Identity, address string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := AuditEvent{
		At: now, Event: AuditRefuse, Subject: id.Subject, Role: id.Role, Issuer: id.Issuer, TokenID: id.TokenID, KeyID: id.KeyID,
		Caller: Caller{Address: address}, Reason: reason,
	}
	if l.sampledLocked(l.refusals.get(reason, refusalsPerSecond, refusalsBurst), &e) {
		l.writeLocked(e)
	}
}

// Close closes the files.
func (l *Audit) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.w.Close(), l.security.Close())
}

// AuditRefresh writes that a connection showed a new token.
func (a *Authority) AuditRefresh(id Identity, peer Peer) {
	a.cfg.Audit.Write(AuditEvent{
		At: a.cfg.Now(), Event: AuditRefresh, Subject: id.Subject, Role: id.Role, Issuer: id.Issuer, TokenID: id.TokenID,
		KeyID: id.KeyID, Expires: id.Expires, Caller: Caller{Address: peer.Address},
	})
}

// AuditRefuse writes a refusal that Verify did not make; see [Audit.Refuse].
func (a *Authority) AuditRefuse(reason string, id Identity, peer Peer) {
	a.cfg.Audit.Refuse(a.cfg.Now(), reason, id, peer)
}

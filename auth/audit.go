package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"cellgate/broker/shared/complete"
)

// The kinds of audit events.
const (
	AuditIssue   = "issue"
	AuditRefresh = "refresh" // a connection presented a new token
	AuditRevoke  = "revoke"
	AuditRotate  = "rotate"
	AuditRefuse  = "refuse" // a connection or call was refused

	AuditDisconnect    = "disconnect" // an operator disconnected a vehicle
	AuditSession       = "session"    // an operator ended a session
	AuditDrain         = "drain"
	AuditLosses        = "losses-acknowledge" // an operator acknowledged what was lost of data_dir
	AuditForget        = "gateway-forget"     // an operator declared a gateway permanently gone
	AuditRules         = "rules"              // a rule set was activated or requested
	AuditConfiguration = "configuration"
	AuditTrace         = "trace"     // somebody traces messages
	AuditSync          = "sync"      // an operator paused or resumed lanes to the centre
	AuditSkip          = "sync-skip" // an operator let the sync worker continue after lost records
)

// Caller is the origin of a request, for the audit log.
type Caller struct {
	// By is role and name for a caller of the API, otherwise the acting part, such as "certificate".
	By       string `json:"by,omitempty"`
	ByRole   string `json:"by_role,omitempty"`
	ByIssuer string `json:"by_iss,omitempty"`
	Address  string `json:"from,omitempty"`
}

// CallerOf returns the caller of an API request.
func CallerOf(r *http.Request) Caller {
	id, _ := IdentityFrom(r.Context())
	return Caller{By: id.Role + " " + id.Subject, ByRole: id.Role, ByIssuer: id.Issuer, Address: r.RemoteAddr}
}

// AuditEvent is one line of the audit log. It has no field that could hold a token. Subject and TokenID are written
// only if a valid signature covers them, or the cell itself created them.
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
	// What is the request, such as a call of the API; Outcome is its result.
	What    string `json:"what,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Caller
	// For a command or its cancellation; Outcome is accepted, repeated, cancelled or refused.
	Origin    string `json:"origin,omitempty"` // the entrance: http, mqtt, kafka or gateway
	VIN       string `json:"vin,omitempty"`
	CommandID string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`

	Reason string `json:"reason,omitempty"`
	// Suppressed counts the similar lines omitted since the last one.
	Suppressed int `json:"suppressed,omitempty"`
}

// repeats reports whether vehicles cause such events by themselves, as often as they like.
func (e *AuditEvent) repeats() bool {
	return e.Event == AuditRefresh || e.Event == AuditIssue && e.Role == RoleVehicle
}

// security reports whether the event is also written to the security log: actions of privileged callers. Events that
// vehicles, unauthenticated clients or services' commands cause are not, so that they cannot rotate it out.
func (e *AuditEvent) security() bool {
	switch e.Event {
	case AuditIssue:
		return e.Role != RoleVehicle
	case AuditRevoke, AuditRotate, AuditDisconnect, AuditSession, AuditDrain, AuditForget, AuditLosses, AuditRules, AuditConfiguration, AuditTrace, AuditSkip, AuditSync:
		return true
	}
	return false
}

// Lines beyond these rates are counted, not written: refusals per reason, repeating events per subject.
const (
	refusalsPerSecond = 10
	refusalsBurst     = 50
	maxRefusalReasons = 64 // never reached, since reasons are constants
	repeatsPerSecond  = 0.1
	repeatsBurst      = 5
	maxRepeating      = 16_384 // subjects; the least recently used one is removed
)

// Audit writes the audit log, one JSON object per line. Security events are also written to a separate file. A nil
// *Audit writes nothing. It is safe for concurrent use.
type Audit struct {
	cell    string
	log     *slog.Logger
	metrics *Metrics

	mu        sync.Mutex // guards below; held while a line is written
	w         io.WriteCloser
	security  io.WriteCloser
	failing   bool
	refusals  buckets // by reason
	repeating buckets // by event and subject
}

// AuditOptions configure the audit log.
type AuditOptions struct {
	// Path is the file, mode 0600. Security events are also written to {Path without .log}-security.log. Each file is
	// rotated at MaxMegabytes; the last MaxFiles are kept, compressed.
	Path                   string
	MaxMegabytes, MaxFiles int
	Cell                   string
	Log                    *slog.Logger
	Metrics                *Metrics
}

// NewAudit makes an audit log. It creates each file with the first line.
func NewAudit(o AuditOptions) (*Audit, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	security := strings.TrimSuffix(o.Path, ".log") + "-security.log"
	if err := errors.Join(writable(o.Path), writable(security)); err != nil {
		return nil, err
	}
	file := func(path string) io.WriteCloser {
		return &lumberjack.Logger{Filename: path, MaxSize: o.MaxMegabytes, MaxBackups: o.MaxFiles, Compress: true}
	}
	return newAudit(file(o.Path), file(security), o), nil
}

// writable returns an error for a named pipe without a reader: the first line would wait for one indefinitely. Every other
// path that cannot be written does not stop the gateway; its error is logged with each line.
func writable(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0) //nolint:gosec // the configured file
	if err == nil {
		return f.Close()
	}
	if errors.Is(err, syscall.ENXIO) {
		return fmt.Errorf("auth.audit.file: %w; name a file", err)
	}
	return nil // the file is created with the first line
}

func newAudit(all, security io.WriteCloser, o AuditOptions) *Audit {
	return &Audit{
		cell: o.Cell, log: o.Log, metrics: o.Metrics, w: all, security: security,
		refusals: newBuckets(maxRefusalReasons), repeating: newBuckets(maxRepeating),
	}
}

// Write writes one event. Of events that one subject repeats it writes a sample, with the number of omitted ones. A
// failed write is logged and counted, but never returned: refusing vehicles because a log is full would be worse.
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

// sampledLocked reports whether to write a line, and moves the number of omitted lines into it.
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

// refuse writes a refusal not made by Verify, such as that of a client identifier. reason is a constant label. If there
// are many, only some lines are written, each with the number of omitted ones.
func (l *Audit) refuse(now time.Time, reason string, id Identity, peer Peer) {
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

// AuditRefresh records that a connection presented a new token.
func (a *Authority) AuditRefresh(id Identity, peer Peer) {
	a.cfg.Audit.Write(AuditEvent{
		At: a.cfg.Now(), Event: AuditRefresh, Subject: id.Subject, Role: id.Role, Issuer: id.Issuer, TokenID: id.TokenID,
		KeyID: id.KeyID, Expires: id.Expires, Caller: Caller{Address: peer.Address},
	})
}

// AuditRefuse records a refusal not made by Verify; see [Audit.Refuse].
func (a *Authority) AuditRefuse(reason string, id Identity, peer Peer) {
	a.cfg.Audit.refuse(a.cfg.Now(), reason, id, peer)
}

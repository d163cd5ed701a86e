package auth

import (
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"gopkg.in/natefinch/lumberjack.v2"
)

// The kinds of audit events.
const (
	AuditIssue   = "issue"
	AuditRefresh = "refresh" // a connection showed a new token
	AuditRevoke  = "revoke"
	AuditRotate  = "rotate"
	AuditRefuse  = "refuse" // a connection or call was refused
	AuditCommand = "command"
	AuditCancel  = "cancel" // of a command
)

// AuditEvent is one line of the audit log. It has no field that could hold a token; Subject and TokenID are
// written only once a signature has vouched for them, or when the cell itself made them.
type AuditEvent struct {
	At      time.Time `json:"at"`
	Cell    string    `json:"cell,omitempty"`
	Event   string    `json:"event"`
	Subject string    `json:"sub,omitempty"`
	Role    string    `json:"role,omitempty"`
	TokenID string    `json:"jti,omitempty"`
	KeyID   string    `json:"kid,omitempty"`
	Scope   string    `json:"scope,omitempty"`
	Expires time.Time `json:"exp,omitzero"`
	By      string    `json:"by,omitempty"`
	Address string    `json:"from,omitempty"`
	// Of a request for a command, or for its end: By, Role and Issuer are who asked.
	Issuer    string `json:"iss,omitempty"`
	Origin    string `json:"origin,omitempty"` // the entrance: http, mqtt, kafka or gateway
	VIN       string `json:"vin,omitempty"`
	CommandID string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`
	Outcome   string `json:"outcome,omitempty"` // accepted, repeated, cancelled or refused
	Reason    string `json:"reason,omitempty"`
	// Suppressed counts the refusals for this reason that were left out since the last line.
	Suppressed int `json:"suppressed,omitempty"`
}

// Refusals beyond these rates per reason are counted, not written.
const (
	refusalsPerSecond = 10
	refusalsBurst     = 50
	maxRefusalReasons = 64
)

// Audit writes the audit log: one JSON object a line. A nil *Audit writes nothing. It is safe for concurrent
// use.
type Audit struct {
	cell    string
	log     *slog.Logger
	metrics *Metrics

	mu      sync.Mutex // guards below; a line is written whole under it
	w       io.Writer
	failing bool
	reasons map[string]*sampler
}

// sampler decides which refusals for one reason are written.
type sampler struct {
	limit      *rate.Limiter
	suppressed int
}

// AuditOptions says where the audit log goes.
type AuditOptions struct {
	// Path is the file, mode 0600. It is rotated at MaxMegabytes (100) and the last MaxFiles (10) are kept,
	// compressed.
	Path                   string
	MaxMegabytes, MaxFiles int
	// Writer takes the lines instead of a file, when set.
	Writer  io.Writer
	Cell    string
	Log     *slog.Logger
	Metrics *Metrics
}

// NewAudit makes an audit log. The file is created at the first line.
func NewAudit(o AuditOptions) *Audit {
	setDefault(&o.MaxMegabytes, 100)
	setDefault(&o.MaxFiles, 10)
	if o.Writer == nil {
		o.Writer = &lumberjack.Logger{Filename: o.Path, MaxSize: o.MaxMegabytes, MaxBackups: o.MaxFiles, Compress: true}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return &Audit{cell: o.Cell, log: o.Log, metrics: o.Metrics, w: o.Writer, reasons: make(map[string]*sampler)}
}

// Write writes one event. That it cannot be written is logged and counted, never an error of what it tells
// of: refusing vehicles because a log is full would be the greater harm.
func (l *Audit) Write(e AuditEvent) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeLocked(e)
}

func (l *Audit) writeLocked(e AuditEvent) {
	e.Cell = l.cell
	e.At = e.At.UTC().Truncate(time.Millisecond)
	b, err := json.Marshal(e)
	if err == nil {
		_, err = l.w.Write(append(b, '\n'))
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
	s := l.samplerLocked(reason)
	if !s.limit.AllowN(now, 1) {
		s.suppressed++
		l.metrics.auditDropped.WithLabelValues("sampled").Inc()
		return
	}
	l.writeLocked(AuditEvent{
		At: now, Event: AuditRefuse, Subject: id.Subject, Role: id.Role, TokenID: id.TokenID, KeyID: id.KeyID,
		Address: address, Reason: reason, Suppressed: s.suppressed,
	})
	s.suppressed = 0
}

// samplerLocked returns the sampler of a reason. Reasons are constants, so the bound is never met; were it,
// the rest would share one.
func (l *Audit) samplerLocked(reason string) *sampler {
	s, found := l.reasons[reason]
	if !found {
		if len(l.reasons) >= maxRefusalReasons {
			reason = ""
		}
		if s = l.reasons[reason]; s == nil {
			s = &sampler{limit: rate.NewLimiter(refusalsPerSecond, refusalsBurst)}
			l.reasons[reason] = s
		}
	}
	return s
}

// Close closes the file.
func (l *Audit) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.w.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// AuditRefresh writes that a connection showed a new token.
func (a *Authority) AuditRefresh(id Identity, peer Peer) {
	a.cfg.Audit.Write(AuditEvent{
		At: a.cfg.Now(), Event: AuditRefresh, Subject: id.Subject, Role: id.Role, TokenID: id.TokenID,
		KeyID: id.KeyID, Expires: id.Expires, Address: peer.Address,
	})
}

// AuditRefuse writes a refusal that Verify did not make; see [Audit.Refuse].
func (a *Authority) AuditRefuse(reason string, id Identity, peer Peer) {
	a.cfg.Audit.Refuse(a.cfg.Now(), reason, id, peer)
}

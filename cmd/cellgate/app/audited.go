package app

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cellgate/auth"
)

// maxAuditedBody bounds the part of a request's body in the audit log, in bytes.
const maxAuditedBody = 512

// audited writes a call of the API to the audit log after it has been answered: caller, request and status.
func (t *trust) audited(event string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body := &prefix{left: maxAuditedBody}
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, body), r.Body}
		answer := &answered{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			t.audit.Write(auth.AuditEvent{
				At: time.Now(), Event: event, Subject: r.PathValue("vin"), Caller: auth.CallerOf(r),
				What: strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + body.text.String()), Outcome: strconv.Itoa(answer.status),
			})
		}()
		h(answer, r)
	}
}

// prefix keeps the first bytes written to it.
type prefix struct {
	text strings.Builder
	left int
}

func (p *prefix) Write(b []byte) (int, error) {
	n := min(len(b), p.left)
	p.left -= n
	p.text.Write(b[:n])
	return len(b), nil
}

// answered records the status of an answer.
type answered struct {
	http.ResponseWriter
	status int
}

// Unwrap implements the unwrapping of http.ResponseController.
func (w *answered) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *answered) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// auditChange audits a change of the configuration or the rule set that was not made by a caller of the API.
func (t *trust) auditChange(event, by, what string) {
	t.audit.Write(auth.AuditEvent{At: time.Now(), Event: event, What: what, Outcome: "in force", Caller: auth.Caller{By: by}})
}

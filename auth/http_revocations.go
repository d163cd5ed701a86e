package auth

import (
	"errors"
	"net/http"
	"time"

	"cellgate/broker/shared/problem"
)

// revocationRequest is the body of POST /v1/revocations: jti; or sub with or without iss, role and issued_before; or
// issued_before alone.
type revocationRequest struct {
	TokenID      string    `json:"jti"`
	Subject      string    `json:"sub"`
	Issuer       string    `json:"iss"`           // with sub; the cell itself if empty
	Role         string    `json:"role"`          // with sub; every role if empty
	IssuedBefore time.Time `json:"issued_before"` // RFC 3339
	Reason       string    `json:"reason"`
	Purge        bool      `json:"purge"`
}

// RevocationsHandler serves POST /v1/revocations. Mount it with Require(ScopeTokenIssue): a service can revoke one
// token or one subject; only an operator can revoke all tokens up to a time.
//
// It answers 201 with the entry once that is on disk and in force in this process.
func (a *Authority) RevocationsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := IdentityFrom(r.Context())
		if !ok {
			problem.Write(w, http.StatusUnauthorized, "token required", "", nil)
			return
		}
		var req revocationRequest
		if err := decodeBody(w, r, &req); err != nil {
			problem.Write(w, http.StatusBadRequest, "bad request", err.Error(), nil)
			return
		}
		if req.TokenID == "" && req.Subject == "" && caller.Role != RoleOperator {
			a.AuditRefuse("scope", caller, PeerOf(r))
			problem.Write(w, http.StatusForbidden, "operators only", "revoking every token up to a time is for operators", nil)
			return
		}
		a.answerRevocation(w, Revocation{
			TokenID: req.TokenID, Subject: req.Subject, Issuer: req.Issuer, Role: req.Role, IssuedBefore: req.IssuedBefore,
			Reason: req.Reason, Purge: req.Purge,
		}, CallerOf(r))
	})
}

func (a *Authority) answerRevocation(w http.ResponseWriter, r Revocation, by Caller) {
	done, err := a.Revoke(r, by)
	switch {
	case errors.Is(err, errInvalidRevocation):
		problem.Write(w, http.StatusBadRequest, "bad request", err.Error(), nil)
	case errors.Is(err, errTooManyRevocations):
		problem.Write(w, http.StatusInsufficientStorage, "too many revocations", err.Error(), nil)
	case err != nil:
		a.cfg.Log.Error("revocation failed", "err", err)
		problem.Write(w, http.StatusInternalServerError, "", "the revocation may be lost at a restart", nil)
	default:
		problem.WriteJSON(w, http.StatusCreated, done)
	}
}

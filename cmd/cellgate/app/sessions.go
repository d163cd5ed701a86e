package app

import (
	"encoding/base64"
	"net/http"
	"strconv"

	"cellgate/auth"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/problem"
)

// Session is an entry of GET /v1/sessions: what this gateway keeps for a client, connected or not.
type Session struct {
	Client string `json:"client"`
	Role   string `json:"role"`
	// Issuer is the issuer of the client's tokens. It is empty for a vehicle, which is the same under every issuer.
	Issuer string `json:"issuer,omitempty"`
	Held
	Subscriptions []Subscription `json:"subscriptions"` // not in lists
}

// SessionPage is GET /v1/sessions.
type SessionPage struct {
	Sessions []Session `json:"sessions"`
	Next     string    `json:"next,omitempty"`
}

func sessionOf(i *session.Info, whole bool) Session {
	s := Session{Subscriptions: []Subscription{}, Held: heldOf(i)}
	if s.Client, s.Role, s.Issuer = message.SplitSessionKey(i.Key); i.Vehicle {
		s.Role = auth.RoleVehicle
	}
	if whole {
		s.Subscriptions = append(s.Subscriptions, subscriptionsOf(i)...)
	}
	return s
}

func (a *gateway) listSessions(w http.ResponseWriter, r *http.Request) {
	limit, ok := pageLimit(w, r)
	if !ok {
		return
	}
	after, err := base64.RawURLEncoding.DecodeString(r.URL.Query().Get("cursor"))
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "", "cursor must be the next of the previous page", nil)
		return
	}
	found := a.sessions.List(string(after), limit)
	page := SessionPage{Sessions: make([]Session, len(found))}
	for i := range found {
		page.Sessions[i] = sessionOf(&found[i], false)
	}
	if len(found) == limit {
		page.Next = base64.RawURLEncoding.EncodeToString([]byte(found[limit-1].Key))
	}
	writeJSON(w, http.StatusOK, page)
}

// sessionKey returns the key of the session that a request names: a vehicle's unless it names a role.
func (a *gateway) sessionKey(r *http.Request) string {
	client, role, issuer := r.PathValue("client"), r.URL.Query().Get("role"), r.URL.Query().Get("issuer")
	if role == "" || role == auth.RoleVehicle {
		return client
	}
	if issuer == "" {
		issuer = a.cfg.Auth.Issuer
	}
	return message.SessionKey(client, role, issuer)
}

func (a *gateway) getSession(w http.ResponseWriter, r *http.Request) {
	info, ok := a.sessions.Get(a.sessionKey(r))
	if !ok {
		noSession(w)
		return
	}
	writeJSON(w, http.StatusOK, sessionOf(&info, true))
}

func noSession(w http.ResponseWriter) {
	problem.Write(w, http.StatusNotFound, "", "this gateway has no such session; one of a service or operator is named with its role, and with its issuer if that is not the cell", nil)
}

// deleteSession deletes a session with its queue, and ends its connection.
func (a *gateway) deleteSession(w http.ResponseWriter, r *http.Request) {
	if !a.sessions.Purge(a.sessionKey(r)) {
		noSession(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// pageLimit returns the requested page length, or answers and returns false.
func pageLimit(w http.ResponseWriter, r *http.Request) (int, bool) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return defaultPage, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		problem.Write(w, http.StatusBadRequest, "", "limit is a number from 1 to "+strconv.Itoa(maxPage), nil)
		return 0, false
	}
	return n, true
}

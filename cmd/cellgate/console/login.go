package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"

	"cellgate/auth"
)

// maxForm bounds the login form: a token has 4 KiB at most.
const maxForm = 16 << 10

// loginBody is the login page.
type loginBody struct {
	Next, Why string
}

// cookieName distinguishes gateways under one host name: cookies ignore ports.
func (c *Console) cookieName() string {
	sum := sha256.Sum256([]byte(c.o.Cell + "\x00" + c.o.Node))
	name := "cellgate-" + hex.EncodeToString(sum[:4])
	if c.o.Secure {
		return "__Host-" + name
	}
	return name
}

// cookie returns a cookie that only this site's requests carry and no script can read.
func (c *Console) cookie(name, value string) *http.Cookie {
	return &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: c.o.Secure, SameSite: http.SameSiteStrictMode} //nolint:gosec // Secure with TLS
}

func (c *Console) showLogin(w http.ResponseWriter, r *http.Request) {
	c.loginPage(w, r, http.StatusOK, whyEnded[r.URL.Query().Get("why")])
}

// whyEnded has the texts for why a session ended.
var whyEnded = map[string]string{
	"ended":                          "The session has ended: the gateway was restarted, or the session was not used for a long time.",
	auth.Reason(auth.ErrExpired):     "The token has expired. Issue another one.",
	auth.Reason(auth.ErrRevoked):     "The token has been revoked.",
	auth.Reason(auth.ErrKeyRetired):  "The key that signed the token is no longer in force. Issue another one.",
	auth.Reason(auth.ErrRole):        "The token's role is no longer known.",
	auth.Reason(auth.ErrCertificate): "The token is bound to a client certificate that this connection does not show.",
	auth.Reason(auth.ErrBadToken):    "The token is no longer accepted.",
	auth.Reason(auth.ErrNotYetValid): "The gateway's clock says that the token is not valid yet.",
	"out":                            "You have logged out.",
}

// loginPage shows the form. There is no session yet, so its CSRF token is also in a cookie.
func (c *Console) loginPage(w http.ResponseWriter, r *http.Request, status int, why string) {
	csrf := rand.Text()
	http.SetCookie(w, c.cookie(c.cookieName()+"-login", csrf))
	next := r.FormValue("next")
	c.render(w, status, "login", &page{
		Title: "Log in", Cell: c.o.Cell, Node: c.o.Node, CSRF: csrf, Body: loginBody{Next: inner(next), Why: why},
	})
}

// inner returns a path within the console; "/" for anything else.
func inner(path string) string {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\r\n") {
		return "/"
	}
	return path
}

// login opens a session for a token.
func (c *Console) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	known, err := r.Cookie(c.cookieName() + "-login")
	if err != nil || r.ParseForm() != nil || subtle.ConstantTimeCompare([]byte(known.Value), []byte(r.PostForm.Get("csrf"))) != 1 {
		c.loginPage(w, r, http.StatusForbidden, "The form is out of date. Try again.")
		return
	}
	if !c.attempts.allow(r.RemoteAddr) {
		c.logins.WithLabelValues("limited").Inc()
		w.Header().Set("Retry-After", "6")
		c.loginPage(w, r, http.StatusTooManyRequests, "Too many tries from this address. Wait a few seconds.")
		return
	}
	token := strings.TrimSpace(r.PostForm.Get("token"))
	id, err := c.verify(token, r)
	if err != nil {
		c.logins.WithLabelValues("refused").Inc()
		c.loginPage(w, r, http.StatusUnauthorized, "The token is not accepted. Use a token of an operator or a service of this cell.")
		return
	}
	c.logins.WithLabelValues("accepted").Inc()
	if old, err := r.Cookie(c.cookieName()); err == nil {
		c.sessions.end(old.Value)
	}
	s := c.sessions.open(token, &id)
	http.SetCookie(w, c.cookie(c.cookieName(), s.key))
	http.Redirect(w, r, inner(r.PostForm.Get("next")), http.StatusSeeOther) //nolint:gosec // inner lets nothing out
}

// logout ends the session.
func (v *visit) logout() (string, string, error) {
	v.c.sessions.end(v.s.key)
	return "", "/login?why=out", nil
}

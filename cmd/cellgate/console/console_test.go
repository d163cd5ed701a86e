package console

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/auth"
	"cellgate/test/check"
)

// site is a console over a made-up API, in which a token is the name of who has it.
type site struct {
	t       *testing.T
	console *Console
	server  *httptest.Server
	client  *http.Client
	now     time.Time
	refused map[string]error
	calls   []string
	answers map[string]string // by path, in place of the usual one
}

// people are who may log in.
var people = map[string]auth.Identity{
	"admin":   {Subject: "ada", Role: auth.RoleOperator, Scopes: auth.Scopes()},
	"reader":  {Subject: "bob", Role: auth.RoleOperator, Scopes: []string{auth.ScopeTelemetryRead, auth.ScopeCommandRead}},
	"none":    {Subject: "eve", Role: auth.RoleService},
	"vehicle": {Subject: "LTEST000000000001", Role: auth.RoleVehicle},
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, now: time.Now(), refused: map[string]error{}}
	c, err := New(options(s))
	check.OK(t, err)
	mux := http.NewServeMux()
	c.Register(mux)
	s.console, s.server = c, httptest.NewServer(mux)
	t.Cleanup(s.server.Close)
	s.client = s.browser()
	return s
}

func options(s *site) Options {
	return Options{
		API: http.HandlerFunc(s.api), Verify: s.verify, Gather: prometheus.NewRegistry(), Cell: "cell-1", Node: "gw-1",
		Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return s.now },
	}
}

// browser is one that keeps cookies and follows no redirect.
func (s *site) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	check.OK(s.t, err)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *site) verify(token []byte, _ auth.Peer) (auth.Identity, error) {
	id, known := people[string(token)]
	if err := s.refused[string(token)]; err != nil {
		return auth.Identity{}, err
	}
	if !known {
		return auth.Identity{}, auth.ErrBadToken
	}
	return id, nil
}

func (s *site) api(w http.ResponseWriter, r *http.Request) {
	s.calls = append(s.calls, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	w.Header().Set("Content-Type", "application/json")
	if answer := s.answers[r.URL.Path]; answer != "" {
		_, _ = io.WriteString(w, answer)
		return
	}
	_, _ = io.WriteString(w, `{"cell":"cell-1","phase":"serving","sinks":[{"sink":"kafka<b>","received":7,"balanced":true}]}`)
}

// get returns a page.
func (s *site) get(path string) (*http.Response, string) {
	s.t.Helper()
	resp, err := s.client.Get(s.server.URL + path)
	check.OK(s.t, err)
	return resp, text(s.t, resp)
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	check.OK(t, errors.Join(err, resp.Body.Close()))
	return string(body)
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func csrfOf(t *testing.T, page string) string {
	t.Helper()
	m := csrfField.FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no form in %s", page)
	}
	return m[1]
}

func (s *site) post(path string, form url.Values) (*http.Response, string) {
	s.t.Helper()
	resp, err := s.client.PostForm(s.server.URL+path, form)
	check.OK(s.t, err)
	return resp, text(s.t, resp)
}

func (s *site) login(token string) *http.Response {
	s.t.Helper()
	_, page := s.get("/login")
	resp, _ := s.post("/login", url.Values{"csrf": {csrfOf(s.t, page)}, "token": {token}, "next": {"/ledger"}})
	return resp
}

func TestLoginOpensASessionInTheUsersName(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if resp, _ := s.get("/ledger"); resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), "/login?next=%2Fledger") {
		t.Errorf("without a session: %d to %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	resp := s.login("admin")
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/ledger" {
		t.Fatalf("login: %d to %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	cookie := resp.Header.Get("Set-Cookie")
	if !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") || strings.Contains(cookie, "admin") {
		t.Errorf("cookie %s", cookie)
	}
	resp, page := s.get("/ledger")
	if resp.StatusCode != http.StatusOK || !strings.Contains(page, "kafka&lt;b&gt;") || !strings.Contains(page, ">admin<") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	if len(s.calls) != 1 || s.calls[0] != "GET /v1/ledger Bearer admin" {
		t.Errorf("calls of the API: %v", s.calls)
	}
	csp := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "script-src 'self'") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("policy %s", csp)
	}
	if strings.Contains(page, " style=") || strings.Contains(page, "<style") || strings.Contains(page, " onclick=") || regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(page) {
		t.Error("the page has something inline, which the policy forbids")
	}
	resp, _ = s.post("/logout", url.Values{"csrf": {csrfOf(t, page)}})
	if resp.StatusCode != http.StatusSeeOther {
		t.Errorf("logout: %d", resp.StatusCode)
	}
	if resp, _ = s.get("/ledger"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("after the logout: %d", resp.StatusCode)
	}
}

func TestWhoMayNotLogIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, token := range []string{"", "nobody", "vehicle"} {
		if resp := s.login(token); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: %d", token, resp.StatusCode)
		}
	}
	if n := s.console.sessions.count(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestASessionEndsWithItsToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.login("admin")
	s.refused["admin"] = auth.ErrRevoked
	resp, _ := s.get("/")
	if to := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || !strings.Contains(to, "why=revoked") {
		t.Errorf("%d to %s", resp.StatusCode, to)
	}
	delete(s.refused, "admin")
	if resp, _ := s.get("/"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("the session came back: %d", resp.StatusCode)
	}
	if resp, _ := s.get("/stream/events/ledger"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stream without a session: %d", resp.StatusCode)
	}
}

func TestFormsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if resp, _ := s.post("/login", url.Values{"token": {"admin"}}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a login without its form: %d", resp.StatusCode)
	}
	s.login("admin")
	if resp, _ := s.post("/logout", url.Values{"csrf": {"made up"}}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a form without its token: %d", resp.StatusCode)
	}
	_, page := s.get("/ledger")
	r, err := http.NewRequest(http.MethodPost, s.server.URL+"/logout", strings.NewReader("csrf="+csrfOf(t, page)))
	check.OK(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := s.client.Do(r)
	check.OK(t, err)
	if text(t, resp); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a form that another site sends: %d", resp.StatusCode)
	}
}

func TestLoginGoesToPagesOfTheConsoleOnly(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/rules?x=1": "/rules?x=1", "": "/", "//evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", "/a\r\nb": "/",
	} {
		if got := inner(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestTriesAreBoundedByAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	limited := 0
	for range tryBurst + 5 {
		if resp := s.login("nobody"); resp.StatusCode == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited != 5 {
		t.Errorf("%d limited, want 5", limited)
	}
	if resp := s.login("admin"); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a good token during that: %d", resp.StatusCode)
	}
	s.now = s.now.Add(tryEvery)
	if resp := s.login("admin"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("a while later: %d", resp.StatusCode)
	}
	a := newAttempts(func() time.Time { return s.now })
	for i := range 3 * maxCallers {
		a.allow("10.0." + string(rune('a'+i%26)) + "." + time.Duration(i).String() + ":1")
	}
	if len(a.byAddress) > maxCallers {
		t.Errorf("%d addresses are told apart", len(a.byAddress))
	}
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	all := newSessions(func() time.Time { return now })
	ada := all.open("t", &auth.Identity{Subject: "ada"})
	for i := range 2 * maxSessions {
		now = now.Add(time.Second)
		if all.get(ada.key) == nil {
			t.Fatal("who is active was sent away")
		}
		all.open("t", &auth.Identity{Subject: time.Duration(i).String()})
	}
	if n := all.count(); n != maxSessions {
		t.Errorf("%d sessions", n)
	}
	for range 2 * maxSessionsPerSubject {
		now = now.Add(time.Second)
		all.open("t", &auth.Identity{Subject: "bob"})
	}
	bob := 0
	for _, s := range all.byKey {
		if strings.HasSuffix(s.owner, "bob") {
			bob++
		}
	}
	if bob != maxSessionsPerSubject {
		t.Errorf("%d of one subject", bob)
	}
	now = now.Add(sessionIdle + time.Second)
	if all.get(ada.key) != nil {
		t.Error("a session outlived its idle time")
	}
}

func TestNavigationShowsWhatTheTokenMayNot(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]struct {
		role   string
		barred int
	}{"admin": {"admin", 0}, "reader": {"read-only", 2}, "none": {"read-only", 5}} {
		s := newSite(t)
		s.login(token)
		_, page := s.get("/ledger")
		if !strings.Contains(page, `<span class="role">`+want.role+`</span>`) {
			t.Errorf("%s is not shown as %s", token, want.role)
		}
		if barred := strings.Count(page, `class="barred"`); barred != want.barred {
			t.Errorf("%s: %d barred pages, want %d", token, barred, want.barred)
		}
	}
}

// TestTheConsoleShowsTheGateways: the Cell page lists the gateways of the cell with links to their consoles, and a
// vehicle's page names its gateway.
func TestTheConsoleShowsTheGateways(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.login("admin")
	_, page := s.get("/")
	if strings.Contains(page, ">Gateways<") {
		t.Error("a cell with one gateway shows gateways")
	}
	s.answers = map[string]string{
		"/v1/status": `{"cell":"cell-1","node":"gw-1","phase":"serving","gateways":[
			{"node":"gw-1","address":"http://127.0.0.1:1","version":"1","phase":"serving","lives":true,"connections":7},
			{"node":"gw-2","address":"http://127.0.0.1:2","version":"2","phase":"draining","lives":true,"connections":8,"differs":["version","rules"]},
			{"node":"gw-3","address":"http://127.0.0.1:3","lives":false}]}`,
		"/v1/vehicles/LTEST000000000001": `{"vin":"LTEST000000000001","node":"gw-2","connected":true}`,
	}
	_, page = s.get("/")
	for _, want := range []string{`gw-1 <span class="faint">this one`, `href="http://127.0.0.1:2"`, "draining", "version, rules", "gone"} {
		if !strings.Contains(page, want) {
			t.Errorf("the Cell page lacks %s", want)
		}
	}
	if _, page = s.get("/vehicles/LTEST000000000001"); !strings.Contains(page, `href="http://127.0.0.1:2/vehicles/LTEST000000000001"`) {
		t.Errorf("the vehicle's page does not say where it is")
	}
}

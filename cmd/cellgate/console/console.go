package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/auth"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/metric"
)

//go:embed html static
var files embed.FS

// Options configure a Console.
type Options struct {
	// API is the gateway's HTTP API. It checks tokens and scopes itself.
	API http.Handler
	// Verify returns the identity of a token, like (*auth.Authority).Verify.
	Verify func(token []byte, peer auth.Peer) (auth.Identity, error)
	// Gather reads the gateway's metrics, for the charts.
	Gather prometheus.Gatherer
	// Secure means that browsers reach the console over TLS.
	Secure bool `zero:"over loopback, or a proxy that ends TLS"`
	// Cell and Node name the gateway.
	Cell, Node string
	Metrics    prometheus.Registerer
	Log        *slog.Logger
	Now        func() time.Time
}

// Console serves the pages.
type Console struct {
	o        Options
	sessions *sessions
	attempts *attempts
	history  *history
	logins   *prometheus.CounterVec
	pages    map[string]*template.Template
	assets   fs.FS
	version  string // of the assets, in their paths
	origins  *http.CrossOriginProtection
}

// New makes a console. Mount it with Register and run Sample.
func New(o Options) (*Console, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	assets, err := fs.Sub(files, "static")
	if err != nil {
		return nil, err
	}
	c := &Console{
		o: o, sessions: newSessions(o.Now), attempts: newAttempts(o.Now), history: newHistory(o.Gather), assets: assets,
		origins: http.NewCrossOriginProtection(),
	}
	if c.version, err = versionOf(assets); err != nil {
		return nil, err
	}
	if c.pages, err = parsePages(c.version); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	to := metric.For(o.Metrics)
	to.GaugeFunc("console_sessions", "Sessions of the console; at most 256.", func() float64 { return float64(c.sessions.count()) })
	c.logins = to.Counters("console_logins_total", "Logins at the console by result: accepted, refused, limited.", "result")
	return c, nil
}

// versionOf is a hash of all assets.
func versionOf(assets fs.FS) (string, error) {
	h := sha256.New()
	err := fs.WalkDir(assets, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(assets, path)
		_, _ = h.Write(body)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:6]), err
}

// parsePages reads the templates: layout and parts with each page.
func parsePages(version string) (map[string]*template.Template, error) {
	names, err := fs.Glob(files, "html/*.html")
	if err != nil {
		return nil, err
	}
	pages := make(map[string]*template.Template)
	shared := []string{"html/layout.html", "html/parts.html"}
	for _, name := range names {
		if slices.Contains(shared, name) {
			continue
		}
		t, err := template.New("").Funcs(functions(version)).ParseFS(files, append(shared, name)...)
		if err != nil {
			return nil, err
		}
		pages[strings.TrimSuffix(strings.TrimPrefix(name, "html/"), ".html")] = t
	}
	return pages, nil
}

// Register mounts the console. Each page has its own pattern, so that unknown paths still belong to the API.
func (c *Console) Register(mux *http.ServeMux) {
	mux.Handle("GET /static/{version}/{file}", c.secured(http.HandlerFunc(c.asset)))
	mux.Handle("GET /login", c.secured(http.HandlerFunc(c.showLogin)))
	mux.Handle("POST /login", c.secured(http.HandlerFunc(c.login)))
	for pattern, page := range c.views() {
		mux.Handle("GET "+pattern, c.secured(c.visited(func(v *visit, w http.ResponseWriter) { c.show(v, w, page) })))
	}
	for pattern, do := range c.actions() {
		mux.Handle("POST "+pattern, c.secured(c.visited(func(v *visit, w http.ResponseWriter) { c.act(v, w, do) })))
	}
	mux.Handle("POST /playground/explain", c.secured(c.visited(func(v *visit, w http.ResponseWriter) { v.explain(w) })))
	mux.Handle("GET /stream/{path...}", c.secured(c.visited(func(v *visit, w http.ResponseWriter) { v.stream(w) })))
}

// policy allows pages to load only what the gateway serves, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secured sets the headers of every answer, and refuses cross-site requests.
func (c *Console) secured(h http.Handler) http.Handler {
	inner := c.origins.Handler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", policy)
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "same-origin")
		head.Set("Cross-Origin-Opener-Policy", "same-origin")
		head.Set("Cache-Control", "no-store")
		inner.ServeHTTP(w, r)
	})
}

// asset serves a file whose path changes with its content.
func (c *Console) asset(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("version") == c.version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeFileFS(w, r, c.assets, r.PathValue("file")) //nolint:gosec // of the files in the binary, by one level of the path
}

// visit is one request of a logged-in user.
type visit struct {
	c  *Console
	r  *http.Request
	s  *session
	id auth.Identity
}

// visited calls h for a session whose token is still valid, and redirects others to the login.
func (c *Console) visited(h func(v *visit, w http.ResponseWriter)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, why := c.visit(r)
		if v != nil {
			h(v, w)
			return
		}
		if r.Method != http.MethodGet || strings.HasPrefix(r.URL.Path, "/stream/") || r.Header.Get("X-Refresh") != "" {
			http.Error(w, "log in", http.StatusUnauthorized)
			return
		}
		to := url.Values{"next": {r.URL.RequestURI()}}
		if why != "" {
			to.Set("why", why)
		}
		http.Redirect(w, r, "/login?"+to.Encode(), http.StatusSeeOther)
	})
}

// visit returns the session of a request. why says what ended it.
func (c *Console) visit(r *http.Request) (v *visit, why string) {
	cookie, err := r.Cookie(c.cookieName())
	if err != nil {
		return nil, ""
	}
	s := c.sessions.get(cookie.Value)
	if s == nil {
		return nil, "ended"
	}
	id, err := c.verify(s.token, r)
	if err != nil {
		c.sessions.end(s.key)
		return nil, auth.Reason(err)
	}
	return &visit{c: c, r: r, s: s, id: id}, ""
}

// verify returns the identity of a token. As at the API, only tokens of operators and services are accepted.
func (c *Console) verify(token string, r *http.Request) (auth.Identity, error) {
	id, err := c.o.Verify([]byte(token), auth.PeerOf(r))
	if err == nil && id.Role != auth.RoleOperator && id.Role != auth.RoleService {
		return id, auth.ErrRole
	}
	return id, err
}

// page is the layout around a page's body.
type page struct {
	Title, Nav string
	Cell, Node string
	User, Role string
	CSRF       string
	Notice     notice
	// Refresh is the reload interval in seconds; 0 for none.
	Refresh int
	// Script is the page's own module.
	Script string
	Links  []link
	Body   any
	May    map[string]bool // by scope, its colon written as _
}

// link is an entry of the navigation.
type link struct {
	Name, Path string
	Current    bool
	// Barred names the missing scope.
	Barred string
}

// show renders a page.
func (c *Console) show(v *visit, w http.ResponseWriter, page view) {
	p := v.page(page)
	body, err := page.load(v)
	status := http.StatusOK
	name := page.name
	if err != nil {
		var no *apiError
		status = http.StatusInternalServerError
		if errors.As(err, &no) {
			status = no.Status
		}
		name, body = "refused", refusedBody{Status: status, Text: err.Error()}
		p.Script, p.Refresh = "", 0
	}
	p.Body = body
	p.Notice = c.sessions.take(v.s)
	c.render(w, status, name, p)
}

// refusedBody replaces a page that cannot be shown.
type refusedBody struct {
	Status int
	Text   string
}

func (c *Console) render(w http.ResponseWriter, status int, name string, p *page) {
	var b bytes.Buffer
	if err := c.pages[name].ExecuteTemplate(&b, "layout", p); err != nil {
		c.o.Log.Error("console page failed", slog.String("page", name), slog.Any("err", err))
		http.Error(w, "the page cannot be rendered; the gateway's log has the reason", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// page is the layout's part of a page.
func (v *visit) page(of view) *page {
	p := &page{
		Title: of.title, Nav: of.nav, Cell: v.c.o.Cell, Node: v.c.o.Node, User: v.id.Subject, Role: "read-only", CSRF: v.s.csrf,
		Refresh: of.refresh, Script: of.script, May: make(map[string]bool),
	}
	for _, scope := range v.id.Scopes {
		p.May[strings.ReplaceAll(scope, ":", "_")] = true
		if scope != auth.ScopeTelemetryRead && scope != auth.ScopeCommandRead {
			p.Role = "admin"
		}
	}
	for _, l := range navigation {
		entry := link{Name: l.name, Path: l.path, Current: l.name == of.nav}
		method, path, _ := strings.Cut(l.needs, " ")
		if e, ok := auth.EndpointFor(method, path); ok && !e.Admits(&v.id) {
			entry.Barred = e.Scope
		}
		p.Links = append(p.Links, entry)
	}
	return p
}

// act performs the action of a form and shows the page that it names.
func (c *Console) act(v *visit, w http.ResponseWriter, do action) {
	if err := v.r.ParseForm(); err != nil || v.r.PostForm.Get("csrf") != v.s.csrf {
		http.Error(w, "the form is not one of this session: go back, reload the page, and try again", http.StatusForbidden)
		return
	}
	text, to, err := do(v)
	n := notice{Text: text}
	if err != nil {
		n = notice{Text: err.Error(), Failed: true}
	}
	if n.Text != "" {
		c.sessions.note(v.s, n)
	}
	http.Redirect(w, v.r, to, http.StatusSeeOther)
}

// view is a page: its title, and how its body is loaded.
type view struct {
	name, title, nav string
	script           string
	refresh          int
	load             func(v *visit) (any, error)
}

// action performs a form's action. It returns the text to show and the page to show next.
type action func(v *visit) (text, to string, err error)

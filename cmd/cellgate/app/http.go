package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"cellgate/broker"
	"cellgate/broker/shared/stable"
	"cellgate/configs"
)

// server is one HTTP listener.
type server struct {
	setting string // for errors
	address string
	files   *configs.ServerTLS         // at the start; nil without TLS
	tls     atomic.Pointer[tls.Config] // for new handshakes
	http    *http.Server
	addr    net.Addr                        // set once it listens
	guard   func(net.Listener) net.Listener // bounds the number of sockets
	log     *slog.Logger
}

// Timeouts of HTTP. Writes have none: a command's ?wait= may be long and has its own bound.
const (
	headTimeout = 5 * time.Second
	idleTimeout = 2 * time.Minute
	// tokenIdleTimeout is short because sockets of token_api count as handshakes.
	tokenIdleTimeout = 10 * time.Second
	maxHeader        = 32 << 10
)

func newServer(setting, address string, files *configs.ServerTLS, read time.Duration, h http.Handler,
	guard func(net.Listener) net.Listener, log *slog.Logger,
) (*server, error) {
	s := &server{setting: setting, address: address, files: files, guard: guard, log: log, http: &http.Server{
		Handler: h, ReadHeaderTimeout: headTimeout, ReadTimeout: read, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ConnContext: withSocket, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	if files == nil {
		return s, nil
	}
	s.http.TLSConfig = &tls.Config{
		MinVersion:         minVersion(files.MinVersion),
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.tls.Load(), nil },
	}
	return s, s.reloadTLS(files)
}

// loadTLS reads the certificate and the client authorities of a new configuration. Turning TLS on or off takes a
// restart: until then the server keeps what it has.
func (s *server) loadTLS(files *configs.ServerTLS) (*tls.Config, error) {
	if s == nil || s.files == nil || files == nil {
		return nil, nil
	}
	cert, err := stable.KeyPair(string(files.Cert), string(files.Key))
	if err != nil {
		return nil, fmt.Errorf("%s.tls: %w", s.setting, err)
	}
	config := &tls.Config{
		MinVersion: minVersion(files.MinVersion), Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"},
	}
	if files.ClientCA == "" || files.ClientAuth == "none" {
		return config, nil
	}
	pool, err := stable.CertPool(string(files.ClientCA))
	if err != nil {
		return nil, fmt.Errorf("%s.tls.client_ca: %w", s.setting, err)
	}
	config.ClientCAs, config.ClientAuth = pool, tls.VerifyClientCertIfGiven
	if files.ClientAuth == "required" {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	config.SessionTicketsDisabled = true // a resumed session would not be checked against the authorities again
	return config, nil
}

// checkTLS reads the files without putting them in force.
func (s *server) checkTLS(files *configs.ServerTLS) error {
	_, err := s.loadTLS(files)
	return err
}

// reloadTLS reads the files and uses them for new handshakes.
func (s *server) reloadTLS(files *configs.ServerTLS) error {
	config, err := s.loadTLS(files)
	if config != nil {
		s.tls.Store(config)
	}
	return err
}

// start binds the address and serves.
func (s *server) start(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s.address: %s is taken: %w; stop what listens there, or change %s.address", s.setting, s.address, syscall.EADDRINUSE, s.setting)
	}
	if err != nil {
		return fmt.Errorf("%s.address: %w", s.setting, err)
	}
	s.addr = ln.Addr()
	ln = s.guard(ln)
	if s.files != nil {
		ln = tls.NewListener(ln, s.http.TLSConfig)
	}
	go func() {
		if err := s.http.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("http server ended", slog.String("setting", s.setting), slog.Any("err", err))
		}
	}()
	return nil
}

// stop lets requests finish until ctx ends.
func (s *server) stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("http requests were cut off", slog.String("setting", s.setting))
		err = nil
	}
	return errors.Join(err, s.http.Close())
}

// socketKey is the context key of a request's socket.
type socketKey struct{}

func withSocket(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, socketKey{}, c)
}

// busy keeps the sockets of requests under way from being closed in favour of new ones.
func busy(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, ok := r.Context().Value(socketKey{}).(*broker.Socket); ok {
			s.Begin()
			defer s.End()
		}
		h.ServeHTTP(w, r)
	})
}

// openServers constructs the HTTP servers, the last stage.
func openServers(g *gateway) (*App, error) {
	h := &g.cfg.HTTP
	operators := func(ln net.Listener) net.Listener {
		return broker.Bound(ln, g.descriptors.api, "http_connections", g.rejected)
	}
	routes, err := g.routes()
	if err != nil {
		return nil, err
	}
	api, err := newServer("http", h.Address, h.TLS, h.ReadTimeout.Std(), busy(routes), operators, g.log)
	if err != nil {
		return nil, err
	}
	api.http.RegisterOnShutdown(g.gate.Close)
	t := g.cfg.TokenAPI
	if t == nil {
		return &App{gateway: g, http: api}, nil
	}
	tokens, err := newServer("token_api", t.Address, tokenAPIFiles(g.cfg), h.ReadTimeout.Std(), g.tokenRoutes(), g.broker.Guard, g.log)
	if err != nil {
		return nil, err
	}
	tokens.http.IdleTimeout = tokenIdleTimeout
	return &App{gateway: g, http: api, tokenAPI: tokens}, nil
}

// tokenAPIFiles returns the TLS files of token_api, nil without one. Vehicles show their certificates there, which TLS
// 1.2 would send in clear.
func tokenAPIFiles(c *configs.Config) *configs.ServerTLS {
	if c.TokenAPI == nil || c.TokenAPI.TLS == nil {
		return nil
	}
	only := *c.TokenAPI.TLS
	only.MinVersion = "1.3"
	return &only
}

func (a *App) startHTTP(ctx context.Context) error {
	if err := a.http.start(ctx); err != nil {
		return err
	}
	a.life.onStop("http", stopShort, a.http.stop)
	if a.tokenAPI == nil {
		return nil
	}
	if err := a.tokenAPI.start(ctx); err != nil {
		return err
	}
	a.life.onStop("token api", stopShort, a.tokenAPI.stop)
	return nil
}

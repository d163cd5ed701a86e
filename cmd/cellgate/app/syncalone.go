package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cellgate/auth"
	"cellgate/broker"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/remote"
	"cellgate/cmd/cellgate/runfile"
	"cellgate/configs"
)

// errNoCentre means that the configuration has no centre for a sync worker.
var errNoCentre = errors.New("the configuration has no section central")

// SyncWorker is the sync worker as a process of its own. It forwards the outbox topics, and its API covers only that.
type SyncWorker struct {
	*trust
	centres *centres
	api     *server
	reload  sync.Mutex
}

// NewSyncWorker constructs a worker. It reads the disk and binds no address. On error everything is released.
func NewSyncWorker(ctx context.Context, o Options) (*SyncWorker, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	if len(o.Config.Central) == 0 {
		return nil, errNoCentre
	}
	fds, err := shareDescriptors()
	if err != nil {
		return nil, err
	}
	alone := *o.Config
	alone.Cell.Gateways = "single" // one worker has the whole outbox, however many gateways there are
	o.Config = &alone
	p := newProcess(o, fds)
	w, err := openSyncWorker(p)
	if err != nil {
		return nil, p.remedy(errors.Join(err, p.stop(context.WithoutCancel(ctx))))
	}
	return w, nil
}

func openSyncWorker(p *process) (*SyncWorker, error) {
	_, missing := os.Stat(filepath.Join(string(p.cfg.DataDir), "state.db"))
	db, err := openState(string(p.cfg.DataDir), p.fail)
	if err != nil {
		return nil, err
	}
	p.life.onStop("state file", stopDisk, closeState(db))
	keeper, err := openTimekeeper(db, p.source, p.log)
	if err != nil {
		return nil, err
	}
	t, err := openTrust(&peers{disk: &disk{process: p, fresh: errors.Is(missing, os.ErrNotExist), db: db, clock: keeper}})
	if err != nil {
		return nil, err
	}
	c, err := t.openSync(kafkaclient.NewMetrics(p.reg.own))
	if err != nil {
		return nil, err
	}
	w := &SyncWorker{trust: t, centres: c}
	h := &p.cfg.HTTP
	w.api, err = newServer("http", h.Address, h.TLS, h.ReadTimeout.Std(), busy(w.routes()), func(ln net.Listener) net.Listener {
		return broker.Bound(ln, p.descriptors.api, "http_connections", p.rejected)
	}, p.log)
	return w, err
}

// routes returns the handler of its API.
func (w *SyncWorker) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range append(w.centres.routes(w.audited), []route{
		{"GET", "/healthz", func(rw http.ResponseWriter, _ *http.Request) {
			writeJSON(rw, http.StatusOK, map[string]any{"status": "ok"})
		}},
		{"GET", "/readyz", w.readyz},
		{"GET", "/metrics", promhttp.HandlerFor(w.reg.all, promhttp.HandlerOpts{}).ServeHTTP},
		{"GET", "/.well-known/jwks.json", w.auth.JWKS().ServeHTTP},
	}...) {
		e, known := auth.EndpointFor(r.method, r.path)
		if !known { // refused to everyone, as at a gateway
			mux.Handle(r.method+" "+r.path, w.auth.Require("", r.handle))
			continue
		}
		mux.Handle(r.method+" "+r.path, w.auth.Guard(e, r.handle))
	}
	return problems(http.MaxBytesHandler(mux, int64(w.cfg.HTTP.MaxBody)), mux)
}

// readyz is 200 while it can forward. It names what is degraded.
func (w *SyncWorker) readyz(rw http.ResponseWriter, _ *http.Request) {
	r := readiness{Status: "ready", Degraded: []remote.Health{}}
	for _, d := range w.centres.health() {
		if !d.OK {
			d.Since = d.Since.UTC()
			r.Status, r.Degraded = "degraded", append(r.Degraded, d)
		}
	}
	writeJSON(rw, http.StatusOK, r)
}

// Run forwards until ctx ends, and stops within limit.
func (w *SyncWorker) Run(ctx context.Context, limit time.Duration) error {
	err := w.api.start(ctx)
	if err == nil {
		w.life.onStop("http", stopShort, w.api.stop)
		dir := string(w.cfg.DataDir)
		err = runfile.Write(dir, &runfile.File{
			PID: os.Getpid(), Version: w.build.Version, Started: w.started, Cell: w.cfg.Cell.ID, Config: w.cfg.File, HTTP: w.httpURL(), Kafka: w.cfg.Kafka.Brokers,
		})
		w.life.onStop("run file", stopShort, func(context.Context) error { return runfile.Remove(dir) })
	}
	if err == nil {
		w.background("clock", w.keepClock)
		w.centres.start()
		close(w.serving)
		w.log.Info("forwarding", slog.String("version", w.build.Version), slog.String("node", w.cfg.Cell.Node))
		select {
		case <-ctx.Done():
		case err = <-w.fatal:
		}
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return errors.Join(err, w.process.stop(stop))
}

// keepClock saves the time while the worker runs.
func (w *SyncWorker) keepClock(ctx context.Context) {
	for again := true; again; again = remote.Pause(ctx, saveClock) {
		if err := w.clock.store(); err != nil {
			w.log.Error("time not saved", slog.Any("err", err))
		}
	}
}

// httpURL returns the URL of its API.
func (w *SyncWorker) httpURL() string {
	scheme := "http"
	if w.cfg.HTTP.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s", scheme, dialable(w.api.addr))
}

// Serving returns a channel that is closed when it has started.
func (w *SyncWorker) Serving() <-chan struct{} { return w.serving }

// Log returns its logger.
func (w *SyncWorker) Log() *slog.Logger { return w.log }

// Reload reads the configuration again and puts in force the settings of the centres and the API's certificate.
func (w *SyncWorker) Reload(ctx context.Context) (Reloaded, error) {
	w.reload.Lock()
	defer w.reload.Unlock()
	next, err := configs.Load(w.cfg.File)
	if err == nil {
		err = errors.Join(w.centres.checkReload(next), w.api.checkTLS(next.HTTP.TLS))
	}
	if err == nil {
		err = errors.Join(w.api.reloadTLS(next.HTTP.TLS), w.centres.reload(ctx, next))
	}
	w.noteReload(err)
	if err != nil {
		return Reloaded{}, fmt.Errorf("reload: %w", err)
	}
	w.level.Set(levelOf(next.Log.Level))
	w.auditChange(auth.AuditConfiguration, "SIGHUP", "central")
	return Reloaded{}, nil
}

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"cellgate/auth"
	"cellgate/broker/clock"
	"cellgate/broker/shared/complete"
	"cellgate/cmd/cellgate/runfile"
	"cellgate/configs"
)

// Build identifies the program.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
}

// Options configure a gateway.
type Options struct {
	// Config is the configuration at the start. Reload reads its File again.
	Config *configs.Config
	Build  Build `zero:"unknown"`
	// Log receives the gateway's log.
	Log   io.Writer
	Clock clock.Source
	// Parts are the parts that the process embeds next to the gateway.
	Parts Parts `zero:"none"`
}

// Phases of a gateway's life, as shown by /readyz.
const (
	phaseStarting int32 = iota
	phaseServing
	phaseStopping
)

// App is one gateway. It embeds the stage constructed before it, which embeds the one before that: whatever a stage
// uses already exists.
type App struct {
	*gateway
	http     *server
	tokenAPI *server // nil when off
	reload   sync.Mutex
}

// New constructs a gateway. It reads the disk and binds no address. On error everything is released.
func New(ctx context.Context, o Options) (*App, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	fds, err := shareDescriptors()
	if err != nil {
		return nil, err
	}
	p := newProcess(o, fds)
	a, err := open(p)
	if err != nil {
		return nil, p.remedy(errors.Join(err, p.stop(context.WithoutCancel(ctx))))
	}
	return a, nil
}

func open(p *process) (*App, error) {
	if err := checkListeners(p.cfg); err != nil {
		return nil, err
	}
	d, err := openDisk(p)
	if err != nil {
		return nil, err
	}
	return openParts(d)
}

// openParts constructs the stages that follow the disk.
func openParts(d *disk) (*App, error) {
	p, err := openPeers(d)
	if err != nil {
		return nil, err
	}
	t, err := openTrust(p)
	if err != nil {
		return nil, err
	}
	o, err := openOutlets(t)
	if err != nil {
		return nil, err
	}
	c, err := openClients(o)
	if err != nil {
		return nil, err
	}
	g, err := openGateway(c)
	if err != nil {
		return nil, err
	}
	return openServers(g)
}

// Start binds every address and serves. When it returns nil, vehicles can connect.
func (a *App) Start(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		return a.remedy(errors.Join(err, a.Stop(context.WithoutCancel(ctx))))
	}
	a.phase.Store(phaseServing)
	close(a.serving)
	a.life.onStop("readiness", time.Second, func(context.Context) error {
		a.phase.Store(phaseStopping)
		return nil
	})
	a.log.Info("serving", slog.String("version", a.build.Version), slog.String("node", a.cfg.Cell.Node),
		slog.Duration("after", time.Since(a.started)))
	return nil
}

func (a *App) start(ctx context.Context) error {
	if err := a.admitted(ctx); err != nil {
		return err
	}
	if err := a.startHTTP(ctx); err != nil {
		return err
	}
	a.startPeers()
	if err := a.startDispatch(ctx); err != nil {
		return err
	}
	if err := a.startFanout(ctx); err != nil {
		return err
	}
	if err := a.startBroker(ctx); err != nil {
		return err
	}
	if err := a.startBackground(); err != nil {
		return err
	}
	if err := runfile.Write(string(a.cfg.DataDir), a.runFile()); err != nil {
		return err
	}
	a.life.onStop("run file", time.Second, func(context.Context) error { return runfile.Remove(string(a.cfg.DataDir)) })
	return nil
}

// Stop ends the gateway: it flushes acknowledgements, tells clients why, and saves cursors. It may be called at any
// time and more than once.
func (a *App) Stop(ctx context.Context) error {
	begin := time.Now()
	err := a.process.stop(ctx)
	took := slog.Duration("took", time.Since(begin))
	if err != nil {
		a.log.Error("stopped with errors", took, slog.Any("err", err))
		return err
	}
	a.log.Info("stopped", took)
	return nil
}

// Serving returns a channel that is closed when the gateway has started.
func (a *App) Serving() <-chan struct{} { return a.serving }

// Fatal delivers the error that the gateway cannot survive, such as a failed journal. The process must then stop.
func (a *App) Fatal() <-chan error { return a.fatal }

// Run serves until ctx ends or the gateway fails, and stops within limit.
func (a *App) Run(ctx context.Context, limit time.Duration) error {
	if err := a.Start(ctx); err != nil {
		return err
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-a.fatal:
		a.log.Error("the gateway stops: it cannot continue", slog.Any("err", failed))
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return errors.Join(failed, a.Stop(stop))
}

// Addrs returns the bound MQTT addresses by listener name.
func (a *App) Addrs() map[string]net.Addr { return a.broker.Addrs() }

// HTTPURL returns the URL of the API.
func (a *App) HTTPURL() string {
	scheme := "http"
	if a.cfg.HTTP.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s", scheme, dialable(a.http.addr))
}

// TokenURL returns the URL at which vehicles get tokens for their certificates, "" without token_api.
func (a *App) TokenURL() string {
	if a.tokenAPI == nil {
		return ""
	}
	scheme := "http"
	if a.cfg.TokenAPI.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s/v1/tokens", scheme, dialable(a.tokenAPI.addr))
}

// dialable returns an address that can be dialled: an unspecified host becomes loopback.
func dialable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if ok && tcp.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
	}
	return addr.String()
}

// runFile tells other processes where the gateway listens.
func (a *App) runFile() *runfile.File {
	f := &runfile.File{
		PID: os.Getpid(), Version: a.build.Version, Started: a.started, Cell: a.cfg.Cell.ID, Config: a.cfg.File,
		HTTP: a.HTTPURL(), Kafka: a.cfg.Kafka.Brokers, Redis: a.cfg.Redis.Addresses,
	}
	for i := range a.cfg.Central {
		f.Central = append(f.Central, a.cfg.Central[i].Kafka.Brokers...)
	}
	addrs := a.Addrs()
	for _, l := range a.cfg.Listeners {
		f.Listeners = append(f.Listeners, runfile.Listener{
			Name: l.Name, Address: dialable(addrs[l.Name]), Protocol: l.Protocol, TLS: l.TLS != nil, Anonymous: l.AnonymousRole != "",
		})
	}
	return f
}

// Log returns the gateway's logger.
func (a *App) Log() *slog.Logger { return a.log }

// Authority returns the gateway's token authority.
func (a *App) Authority() *auth.Authority { return a.auth }

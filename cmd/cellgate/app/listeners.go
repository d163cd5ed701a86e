package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"syscall"

	"cellgate/broker"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/stable"
	"cellgate/configs"
)

// brokerOptions returns the broker's options for the configuration.
func (c *clients) brokerOptions(drain *drainer) (broker.Options, error) {
	o := broker.Options{
		Journal: c.journal, Sessions: c.sessions, Auth: c.auth, Now: c.clock.Wall, Limits: c.limits(c.cfg),
		Classes:          c.cfg.Metrics.Classes,
		CommandSubscribe: c.cfg.Commands.SubscribeOnConnect, Admit: admission(drain.admit, c.ladder.admit), Log: c.log, Metrics: c.stats,
		Shed: c.ladder.shed, Command: c.commands.Submit, Trace: c.traces,
	}
	for _, l := range c.cfg.Listeners {
		made, err := listener(&l)
		if err != nil {
			return o, err
		}
		o.Listeners = append(o.Listeners, made)
	}
	if o.Ack, _ = ackModes(&c.cfg.Uplink); c.settled != nil {
		o.Settlement = c.settled
	}
	return o, nil
}

func listener(l *configs.Listener) (broker.Listener, error) {
	out := broker.Listener{
		Name: l.Name, Address: l.Address, Protocol: l.Protocol, Path: l.Path, AnonymousRole: l.AnonymousRole,
	}
	for _, text := range l.ProxyFrom {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return out, fmt.Errorf("listeners: %s: proxy_from: %w", l.Name, err)
		}
		out.ProxyFrom = append(out.ProxyFrom, p)
	}
	if l.TLS != nil {
		files := listenerFiles(l.TLS)
		out.TLS = &files
	}
	return out, nil
}

func listenerFiles(t *configs.ServerTLS) broker.TLS {
	return broker.TLS{
		Cert: string(t.Cert), Key: string(t.Key), ClientCA: string(t.ClientCA), ClientAuth: t.ClientAuth,
		MinVersion: minVersion(t.MinVersion),
	}
}

// filesByListener returns the TLS options of the listeners by name.
func filesByListener(c *configs.Config) map[string]broker.TLS {
	files := make(map[string]broker.TLS, len(c.Listeners))
	for i := range c.Listeners {
		if l := &c.Listeners[i]; l.TLS != nil {
			files[l.Name] = listenerFiles(l.TLS)
		}
	}
	return files
}

func minVersion(text string) uint16 {
	if text == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// Shares of the descriptors that the process may open. The rest is for vehicles and services.
const (
	fdLeast   = 256 // minimum
	fdReserve = 512 // journal, state, logs, Kafka and Redis; a third of all if that is less
	fdAPI     = 512 // the operators' API; a sixteenth if that is less
	// fdHandshakes are reserved for connecting clients, however many are connected.
	fdHandshakes = 64
)

// descriptors is their division: no listener takes those of another, and none takes those of the journal.
type descriptors struct{ clients, api int }

func divide(limit uint64) descriptors {
	n := int(min(limit, 1<<31)) //nolint:gosec // bounded
	d := descriptors{api: min(fdAPI, n/16)}
	d.clients = n - d.api - min(fdReserve, n/3)
	return d
}

// shareDescriptors divides what the process may open now. Go has raised the soft limit to the hard one.
func shareDescriptors() (descriptors, error) {
	var fds syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &fds); err != nil {
		return descriptors{}, fmt.Errorf("limit of descriptors: %w", err)
	}
	if fds.Cur < fdLeast {
		return descriptors{}, fmt.Errorf("the process may open %d files, and needs %d and one for each connection; raise the limit: ulimit -n, LimitNOFILE=",
			fds.Cur, fdLeast)
	}
	return divide(fds.Cur), nil
}

// limits returns the broker's bounds, and logs when one had to be lowered.
func (p *process) limits(c *configs.Config) broker.Limits {
	l := limitsOf(c, p.descriptors.clients)
	if l.MaxConnections < c.Limits.MaxConnections {
		p.log.Warn("limits.max_connections is lowered to what the descriptor limit admits; raise it with ulimit -n",
			slog.Int("configured", c.Limits.MaxConnections), slog.Int("in_force", l.MaxConnections))
	}
	return l
}

// limitsOf returns the broker's bounds. The number of connections is bounded by the descriptors.
func limitsOf(c *configs.Config, sockets int) broker.Limits {
	l := &c.Limits
	out := broker.Limits{
		MaxConnections: l.MaxConnections, ConnectionsPerAddress: l.ConnectionsPerAddress, ConnectRate: l.ConnectRate, Handshakes: l.Handshakes,
		HandshakeTimeout: l.HandshakeTimeout.Std(), ConnectTimeout: l.ConnectTimeout.Std(), WriteTimeout: l.WriteTimeout.Std(),
		MaxConnectPacket: int(l.MaxConnectPacket), MaxPacket: int(l.MaxPacket), MaxTopicLevels: l.MaxTopicLevels, MaxKeepalive: l.MaxKeepalive.Std(), Window: c.Uplink.Window,
		MessagesPerSecond: l.MessagesPerSecond, BytesPerSecond: int64(l.BytesPerSecond), OutboundBytes: int(l.OutboundBytes),
		ExpiringNotice: c.Auth.ExpiringNotice.Std(), ExpiryJitter: c.Auth.ExpiryJitter.Std(),
	}
	out.Sockets = sockets
	out.MaxConnections = min(out.MaxConnections, out.Sockets-fdHandshakes)
	return out
}

// ackModes returns the acknowledgement mode of a record (uplink.ack), and whether any class waits for Kafka.
func ackModes(u *configs.Uplink) (mode func(*message.Record) broker.AckMode, kafka bool) {
	of := func(name string) broker.AckMode {
		switch name {
		case "kafka":
			kafka = true
			return broker.AckKafka
		case "memory":
			return broker.AckMemory
		}
		return broker.AckJournal
	}
	all := of(u.Ack)
	byClass := make(map[string]broker.AckMode, len(u.AckByClass))
	for class, name := range u.AckByClass {
		byClass[class] = of(name)
	}
	if len(byClass) == 0 {
		return func(*message.Record) broker.AckMode { return all }, kafka
	}
	return func(rec *message.Record) broker.AckMode {
		if m, ok := byClass[classOf(rec.Topic)]; ok {
			return m
		}
		return all
	}, kafka
}

// classOf returns the first level after v1/{vin}/up/, "" for other topics.
func classOf(topic string) string {
	_, branch, rest := message.SplitTopic(topic)
	if branch != "up" {
		return ""
	}
	for i := range len(rest) {
		if rest[i] == '/' {
			return rest[:i]
		}
	}
	return rest
}

// checkListeners reads the TLS files of all listeners before anything is opened, so that the error for a missing or
// wrong file names its key.
func checkListeners(c *configs.Config) error {
	for i, l := range c.Listeners {
		if err := checkServerTLS(fmt.Sprintf("listeners[%d].tls", i), l.TLS); err != nil {
			return err
		}
	}
	return nil
}

func checkServerTLS(setting string, t *configs.ServerTLS) error {
	if t == nil {
		return nil
	}
	if err := readable(setting+".cert", t.Cert); err != nil {
		return err
	}
	if err := readable(setting+".key", t.Key); err != nil {
		return err
	}
	if _, err := stable.KeyPair(string(t.Cert), string(t.Key)); err != nil {
		return fmt.Errorf("%s: cert %s and key %s are not a PEM pair: %w", setting, t.Cert, t.Key, err)
	}
	if t.ClientCA == "" || t.ClientAuth == "none" {
		return nil
	}
	if err := readable(setting+".client_ca", t.ClientCA); err != nil {
		return err
	}
	if _, err := stable.CertPool(string(t.ClientCA)); err != nil {
		return fmt.Errorf("%s.client_ca: %w; name a PEM file of the vehicles' authorities", setting, err)
	}
	return nil
}

// readable returns an error when the file of a configuration key cannot be read.
func readable(setting string, file configs.Path) error {
	_, err := stable.ReadFile(string(file))
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %s: %w; name a PEM file that the gateway may read", setting, file, path.Err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; name a PEM file that the gateway may read", setting, err)
	}
	return nil
}

// pool is a replaceable set of authorities.
type pool struct{ pool atomic.Pointer[x509.CertPool] }

// get returns the authorities, nil for none.
func (p *pool) get() *x509.CertPool { return p.pool.Load() }

// loadVehicleCAs reads the authorities of vehicle certificates: those of token_api, else of the first listener that has
// any. It returns nil for none.
func loadVehicleCAs(c *configs.Config) (*x509.CertPool, error) {
	file := ""
	if c.TokenAPI != nil && c.TokenAPI.TLS != nil {
		file = string(c.TokenAPI.TLS.ClientCA)
	}
	for _, l := range c.Listeners {
		if file == "" && l.TLS != nil {
			file = string(l.TLS.ClientCA)
		}
	}
	if file == "" {
		return nil, nil
	}
	cas, err := stable.CertPool(file)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	return cas, nil
}

package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cellgate/broker/clock"
	"cellgate/cmd/cellgate/app"
	"cellgate/configs"
)

// Options configure what to run.
type Options struct {
	// Data is the folder for everything.
	Data  string
	Build app.Build
	// Gateways is the number of gateways of the cell. The first has the configured addresses, the others have free
	// loopback ports and their own folders below Data.
	Gateways int
	// FreePorts listens on free ports instead of the configured ones, so that several can run.
	FreePorts bool
	// Log receives the gateway's log.
	Log io.Writer
}

// Dev is a running gateway with the embedded parts that it needs.
type Dev struct {
	App     *app.App
	Others  []*app.App // further gateways of the cell
	Config  *configs.Config
	Data    string
	Cell    *Kafka
	Central *Kafka
	Redis   *Redis

	parts parts
	stops []func(context.Context) error
	once  sync.Once
	err   error
}

// configFile returns the configuration file in a data folder.
func configFile(data string) string { return filepath.Join(data, "configs", "dev.yaml") }

// Start starts everything. Later starts use what the first one created. On error nothing is left running.
func Start(ctx context.Context, o Options) (*Dev, error) {
	if err := prepare(o.Data); err != nil {
		return nil, err
	}
	cfg, err := configs.Load(configFile(o.Data))
	if err != nil {
		return nil, err
	}
	if o.FreePorts {
		freePorts(cfg)
	}
	d := &Dev{Config: cfg, Data: o.Data}
	if err := d.start(ctx, o); err != nil {
		return nil, errors.Join(err, d.Stop(context.WithoutCancel(ctx)))
	}
	return d, nil
}

// freePorts replaces every port of the configuration by a free one.
func freePorts(c *configs.Config) {
	const free = "127.0.0.1:0"
	for i := range c.Listeners {
		c.Listeners[i].Address = free
	}
	c.HTTP.Address = free
	c.Kafka.Brokers, c.Redis.Addresses = []string{free}, []string{free}
	if len(c.Central) > 0 {
		c.Central[0].Kafka.Brokers = []string{free}
	}
	if c.TokenAPI != nil {
		c.TokenAPI.Address = free
	}
}

// prepare creates configuration, rules and certificates where they are missing.
func prepare(data string) error {
	if err := os.MkdirAll(data, 0o750); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if err := seed(filepath.Join(data, "configs")); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	return certificates(filepath.Join(data, "tls"))
}

// seed copies the sample configuration and rules where they are missing. The rules are copied as a folder: a deleted
// rule does not come back.
func seed(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	file := filepath.Join(dir, "dev.yaml")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		body, err := configs.Samples.ReadFile("dev.yaml")
		if err != nil {
			return err
		}
		if err := writeFile(file, body, 0o644); err != nil {
			return err
		}
	}
	rules := filepath.Join(dir, "rules")
	if _, err := os.Stat(rules); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	samples, err := fs.Sub(configs.Samples, "rules")
	if err != nil {
		return err
	}
	return os.CopyFS(rules, samples)
}

// cellTopics returns the topics of the cell's Kafka that the gateway and its sample rules use.
func cellTopics() []string {
	return []string{
		"vehicle.telemetry", "vehicle.alerts", "vehicle.presence", "vehicle.commands", "vehicle.command-results", "vehicle.rule-errors",
		"central.p0", "central.p1", "central.p2",
	}
}

// centralTopics returns those of the centre's Kafka.
func centralTopics() []string { return []string{"fleet.alerts", "fleet.telemetry"} }

func (d *Dev) start(ctx context.Context, o Options) error {
	c := d.Config
	d.onStop(d.parts.close)
	if err := d.embed(o.Data); err != nil {
		return err
	}
	if err := several(c, o); err != nil {
		return err
	}
	var err error
	if d.App, err = app.New(ctx, app.Options{Config: c, Build: o.Build, Log: o.Log, Clock: clock.System(), Parts: &d.parts}); err != nil {
		return err
	}
	d.onStop(d.App.Stop)
	if err := d.App.Start(ctx); err != nil {
		return err
	}
	for n := 2; n <= o.Gateways; n++ {
		if err := d.startOther(ctx, o, n); err != nil {
			return err
		}
	}
	return nil
}

// several changes the configuration to that of one gateway of several, with a shared key.
func several(c *configs.Config, o Options) error {
	if o.Gateways < 2 {
		return nil
	}
	c.Cell.Gateways, c.Cell.JoinKey = "several", configs.Path(filepath.Join(o.Data, "join.key"))
	if _, err := os.Stat(string(c.Cell.JoinKey)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeFile(string(c.Cell.JoinKey), []byte(rand.Text()+"\n"), 0o600)
}

// startOther starts a further gateway.
func (d *Dev) startOther(ctx context.Context, o Options, n int) error {
	c := *d.Config
	c.Cell.Node = fmt.Sprintf("gw-%d", n)
	dir := filepath.Join(o.Data, c.Cell.Node)
	c.DataDir, c.Auth.KeysDir = configs.Path(dir), configs.Path(filepath.Join(dir, "auth"))
	c.Auth.Audit.File, c.Uplink.Journal.Dir = configs.Path(filepath.Join(dir, "audit.log")), configs.Path(filepath.Join(dir, "journal"))
	c.Listeners = slices.Clone(c.Listeners)
	for i := range c.Listeners {
		c.Listeners[i].Address = "127.0.0.1:0"
	}
	c.HTTP.Address, c.TokenAPI = "127.0.0.1:0", nil
	a, err := app.New(ctx, app.Options{Config: &c, Build: o.Build, Log: o.Log, Clock: clock.System()})
	if err != nil {
		return fmt.Errorf("%s: %w", c.Cell.Node, err)
	}
	d.onStop(a.Stop)
	d.Others = append(d.Others, a)
	return a.Start(ctx)
}

// embed starts Kafka, the centre's Kafka and Redis, and sets their addresses in the configuration.
func (d *Dev) embed(data string) error {
	c := d.Config
	kafka := func(to **Kafka, setting, dir string, topics []string) func(addr string) (string, func() error, error) {
		return func(addr string) (string, func() error, error) {
			k, err := StartKafka(context.Background(), setting, addr, filepath.Join(data, "kafka", dir), topics)
			if err != nil {
				return "", nil, err
			}
			if *to == nil {
				*to = k
			}
			return k.Addr(), func() error { k.Close(); return nil }, nil
		}
	}
	addr, err := d.parts.add("kafka", only(c.Kafka.Brokers), kafka(&d.Cell, "kafka.brokers", "cell", cellTopics()))
	if err != nil {
		return err
	}
	c.Kafka.Brokers = []string{addr}
	if len(c.Central) > 0 {
		addr, err := d.parts.add("centre", only(c.Central[0].Kafka.Brokers), kafka(&d.Central, "central.kafka.brokers", "central", centralTopics()))
		if err != nil {
			return err
		}
		c.Central[0].Kafka.Brokers = []string{addr}
	}
	addr, err = d.parts.add("redis", only(c.Redis.Addresses), func(addr string) (string, func() error, error) {
		r, err := startRedis("redis.addresses", addr, filepath.Join(data, "redis", "dump"))
		if err != nil {
			return "", nil, err
		}
		if d.Redis == nil {
			d.Redis = r
		}
		return r.Addr(), r.Close, nil
	})
	c.Redis.Addresses = []string{addr}
	return err
}

// only returns the first address: each embedded part is one server.
func only(addrs []string) string {
	if len(addrs) == 0 {
		return "127.0.0.1:0"
	}
	return addrs[0]
}

func (d *Dev) onStop(stop func(context.Context) error) { d.stops = append(d.stops, stop) }

// Stop stops everything, the gateway first. It may be called more than once.
func (d *Dev) Stop(ctx context.Context) error {
	d.once.Do(func() {
		var errs []error
		for i := len(d.stops) - 1; i >= 0; i-- {
			errs = append(errs, d.stops[i](ctx))
		}
		d.err = errors.Join(errs...)
	})
	return d.err
}

// StopLimit is the timeout of a stop: Ctrl-C takes five seconds at most.
const StopLimit = 4500 * time.Millisecond

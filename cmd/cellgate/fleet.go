package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cellgate/auth"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/cmd/cellgate/runfile"
	"cellgate/configs"
)

// fleetFlags are the flags of `fleet`.
type fleetFlags struct {
	target
	o                        fleet.Options
	tls, noTokens            bool
	tokens, tokenDir, ledger string
	mqtt                     string
	every                    time.Duration
	alarms                   time.Duration
}

func fleetCommand(c *cli) *cobra.Command {
	f := &fleetFlags{o: fleet.Normal()}
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "simulate vehicles against a gateway",
		Long: `fleet connects simulated vehicles to a gateway. Each drives from Shanghai to Huangshan and back in the New European
Driving Cycle, publishes telemetry and sometimes an alarm, answers commands, and reconnects with jittered back-off.
fleet prints summary lines while it runs and a report at the end.

With --data or --config it finds the gateway on this machine and issues tokens with its keys. For another gateway
give --broker, --ca and --tokens or --token-dir. Payloads contain a sequence number ("seq"). --ledger writes the
acknowledged ones to a file, to compare them with the messages that arrived.`,
		Example: `  cellgate fleet --vehicles 500 --first 1000 --rate 2 --duration 1m --ledger ledger.txt
  cellgate fleet --broker gw-1.example.com:8883 --ca ca.crt --tokens tokens.txt --rate 0.1
  cellgate fleet --broker 127.0.0.1:1884 --no-tokens --vehicles 200 --saturate --json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.fleet(cmd, f) },
	}
	f.localFlags(cmd)
	f.elsewhere = "--broker"
	f.whereFlags(cmd)
	f.loadFlags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func (f *fleetFlags) whereFlags(cmd *cobra.Command) {
	p := cmd.Flags()
	p.StringVar(&f.o.Broker, "broker", "", "host:port of a gateway elsewhere")
	p.StringVar(&f.ca, "ca", "", "PEM file of the authority that signed the gateway's certificate; means TLS")
	p.BoolVar(&f.tls, "tls", false, "with --broker: TLS with the system's authorities")
	p.StringVar(&f.tokens, "tokens", "", "`FILE` with one token per line, as cellgate token issue --vins prints them")
	p.StringVar(&f.tokenDir, "token-dir", "", "`DIR` with one token per file, named by its VIN")
	p.BoolVar(&f.noTokens, "no-tokens", false, "connect without user name and password")
	p.StringVar(&f.mqtt, "mqtt", "5", "protocol version: 5 or 3.1.1")
	p.BoolVar(&f.o.Clean, "clean", false, "start a new session with every connection")
	p.BoolVar(&f.o.Resume, "tls-resume", false, "resume the TLS session on reconnect")
	p.Float64Var(&f.o.ConnectRate, "connect-rate", f.o.ConnectRate, "maximum number of new connections per second")
	durationVar(p, &f.o.Keepalive, "keepalive", f.o.Keepalive, "MQTT keep alive")
	durationVar(p, &f.o.ReconnectMax, "reconnect-max", f.o.ReconnectMax, "longest back-off between attempts")
	cmd.MarkFlagsMutuallyExclusive("tokens", "token-dir", "no-tokens")
}

func (f *fleetFlags) loadFlags(cmd *cobra.Command) {
	p := cmd.Flags()
	p.IntVar(&f.o.Vehicles, "vehicles", 10, "number of vehicles")
	p.IntVar(&f.o.First, "first", 0, "number of the first vehicle, so that several fleets do not share VINs")
	p.Float64Var(&f.o.Rate, "rate", 1, "telemetry messages per second and vehicle; 0 stays idle")
	p.BoolVar(&f.o.Saturate, "saturate", false, "publish as fast as the window allows, instead of --rate")
	p.Uint8Var(&f.o.QoS, "qos", 1, "0 or 1")
	p.IntVar(&f.o.PayloadBytes, "payload-bytes", 0, "pad telemetry to this size")
	p.IntVar(&f.o.Window, "window", f.o.Window, "maximum number of unacknowledged messages per vehicle")
	durationVar(p, &f.alarms, "alarm-every", 30*time.Minute, "mean time between a vehicle's alarms; 0s for none (the default with --ledger)")
	durationVar(p, &f.o.Duration, "duration", 0, "how long to run; 0s runs until Ctrl-C")
	p.BoolVar(&f.o.WaitConnected, "wait-connected", false, "publish and count only after all are connected")
	p.Uint64Var(&f.o.Seed, "seed", 1, "seed of the vehicles' positions and charge")
	p.StringVar(&f.ledger, "ledger", "", "append VIN and sequence of every acknowledged message to `FILE`, with fsync")
	durationVar(p, &f.every, "every", 0, "time between summary lines (1s on a terminal, else 10s)")
}

func (c *cli) fleet(cmd *cobra.Command, f *fleetFlags) error {
	o := f.o
	var err error
	if o.Version, err = mqttVersion(f.mqtt); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	if o.Broker, o.TLS, err = f.where(); err != nil {
		return err
	}
	done, err := f.credentials(&o)
	if err != nil {
		return err
	}
	defer done()
	if o.AlarmEvery = f.alarms; f.ledger != "" && !cmd.Flags().Changed("alarm-every") {
		o.AlarmEvery = 0 // an audit compares one class
	}
	if f.ledger != "" {
		if o.Ledger, err = fleet.OpenLedger(f.ledger); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	o.Progress, o.Rewrite = c.err, isTerminal(c.err)
	if o.Every = f.every; o.Every == 0 {
		o.Every = 10 * time.Second
		if o.Rewrite {
			o.Every = time.Second
		}
	}
	report, err := fleet.Run(cmd.Context(), o)
	if o.Ledger != nil {
		report.Ledger = f.ledger
		err = errors.Join(err, o.Ledger.Close())
	}
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	if err := c.print(report, func(p *printer) { _ = report.Print(p) }); err != nil {
		return err
	}
	if report.TakenOver() > 0 {
		fmt.Fprintln(c.err, "cellgate: fleet: another fleet drives the same VINs, as that of `cellgate dev` does; drive others with --first, such as --first 1000") //nolint:errcheck // a hint
	}
	if report.Connects == 0 {
		return fmt.Errorf("fleet: no vehicle could connect to %s", o.Broker)
	}
	return nil
}

// check checks the numbers.
func (f *fleetFlags) check() error {
	o := &f.o
	if f.tokens == "" && f.tokenDir == "" && (o.Vehicles < 1 || o.First < 0 || o.First+o.Vehicles > fleet.MaxVehicles) {
		return usagef("fleet: --vehicles %d with --first %d: want 1 vehicle or more, numbered below %d", o.Vehicles, o.First, fleet.MaxVehicles)
	}
	if o.Rate < 0 || o.QoS > 1 {
		return usagef("fleet: --rate %g and --qos %d: want a rate of 0 or more, and a QoS of 0 or 1", o.Rate, o.QoS)
	}
	return nil
}

func mqttVersion(text string) (byte, error) {
	switch text {
	case "5":
		return fleet.MQTT5, nil
	case "3.1.1", "311", "4":
		return fleet.MQTT311, nil
	}
	return 0, usagef("mqtt: %q: use 5 or 3.1.1", text)
}

// where returns the gateway's address and how to trust it.
func (f *fleetFlags) where() (string, *tls.Config, error) {
	if f.o.Broker != "" {
		if err := hostPort(f.o.Broker); err != nil {
			return "", nil, usagef("broker: %w", err)
		}
		if f.ca == "" && !f.tls {
			return f.o.Broker, nil, nil
		}
		f.api = f.o.Broker // no certificate of this machine belongs to a gateway elsewhere
		config, err := f.clientTLS()
		return f.o.Broker, config, err
	}
	cfg, run, err := f.load()
	if err != nil {
		return "", nil, err
	}
	l, ok := vehicleListener(cfg, run)
	if !ok {
		return "", nil, errors.New("listeners: none for vehicles in the configuration; name one with --broker")
	}
	if !l.TLS {
		return l.Address, nil, nil
	}
	config, err := f.clientTLS()
	if err == nil {
		config.ServerName = "localhost"
	}
	return l.Address, config, err
}

// vehicleListener returns the listener for vehicles: the actual one of a running gateway, else the configured one.
func vehicleListener(cfg *configs.Config, run *runfile.File) (runfile.Listener, bool) {
	if run == nil {
		run = &runfile.File{}
		for _, l := range cfg.Listeners {
			run.Listeners = append(run.Listeners, runfile.Listener{Name: l.Name, Address: l.Address, Protocol: l.Protocol, TLS: l.TLS != nil})
		}
	}
	l, ok := run.Vehicles()
	l.Address = loopbackFor(l.Address)
	return l, ok
}

// credentials sets the source of the vehicles' tokens. done releases it.
func (f *fleetFlags) credentials(o *fleet.Options) (done func(), err error) {
	done = func() {}
	var set *fleet.TokenSet
	switch {
	case f.noTokens:
		return done, nil
	case f.tokens != "":
		set, err = fleet.ReadTokens(f.tokens)
	case f.tokenDir != "":
		set, err = fleet.ReadTokenDir(f.tokenDir)
	default:
		a, err := f.authority()
		if err != nil {
			return nil, err
		}
		o.Token = newIssuer(a).token
		return func() { closeAuthority(a) }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	o.Token, o.VINs = set.Token, set.VINs()
	return done, nil
}

// issuer issues tokens for the fleet with the gateway's own keys. It renews a token when less than a fifth of its life
// is left.
type issuer struct {
	authority *auth.Authority
	mu        sync.Mutex
	tokens    map[string]issuedToken
}

type issuedToken struct {
	token string
	renew time.Time
}

func newIssuer(a *auth.Authority) *issuer {
	return &issuer{authority: a, tokens: make(map[string]issuedToken)}
}

// token is fleet.Options.Token.
func (i *issuer) token(vin string) (string, error) {
	i.mu.Lock()
	t, ok := i.tokens[vin]
	i.mu.Unlock()
	if ok && time.Now().Before(t.renew) {
		return t.token, nil
	}
	token, id, err := i.authority.Issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle, Caller: auth.Caller{By: "fleet"}})
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tokens[vin] = issuedToken{token, id.Expires.Add(-id.Expires.Sub(id.IssuedAt) / 5)}
	return token, nil
}

// isTerminal reports whether w is a terminal, where a line can be rewritten.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
	"cellgate/cmd/cellgate/dev"
	"cellgate/cmd/cellgate/fleet"
)

// devFlags are the flags of `dev`.
type devFlags struct {
	data      string
	vehicles  int
	gateways  int
	rate      float64
	freePorts bool
}

func devCommand(c *cli) *cobra.Command {
	f := &devFlags{}
	data := defaultData
	if v := os.Getenv("CELLGATE_DATA"); v != "" {
		data = v
	}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "run everything on this machine, with nothing installed",
		Long: `dev runs the whole gateway with an embedded Kafka and Redis and simulated vehicles. The first start creates keys,
certificates and sample rules. Everything is in the data folder, which later starts use again. The configuration is
DIR/configs/dev.yaml: if a port is taken, change it there.

The embedded Kafka and Redis are for development only. For production use ` + "`cellgate run`" + `.`,
		Example: `  cellgate dev
  cellgate dev --data /tmp/cell --vehicles 100
  cellgate dev --gateways 2`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.dev(cmd.Context(), f) },
	}
	cmd.AddCommand(devPartCommands(c)...)
	cmd.Flags().StringVar(&f.data, "data", data, "folder for everything; also CELLGATE_DATA")
	cmd.Flags().IntVar(&f.vehicles, "vehicles", 10, "simulated vehicles; 0 for none")
	cmd.Flags().IntVar(&f.gateways, "gateways", 1, "gateways of the cell; vehicles move between them; all but the first use free ports")
	cmd.Flags().Float64Var(&f.rate, "rate", 0.5, "telemetry messages per second and vehicle")
	cmd.Flags().BoolVar(&f.freePorts, "free-ports", false, "listen on free ports instead of the configured ones; commands with --data find them")
	return cmd
}

func (c *cli) dev(ctx context.Context, f *devFlags) error {
	if f.vehicles < 0 || f.rate < 0 {
		return usagef("dev: --vehicles and --rate are not negative")
	}
	if f.gateways < 1 || f.gateways > maxDevGateways {
		return usagef("dev: --gateways is 1 to %d", maxDevGateways)
	}
	d, err := dev.Start(ctx, dev.Options{
		Data: f.data, Gateways: f.gateways, FreePorts: f.freePorts, Build: app.Build{Version: version, Commit: commit}, Log: c.err,
	})
	if err != nil {
		return err
	}
	unhook := c.onHangup(d.App)
	defer unhook()
	err = dev.Banner(c.out, d, dev.BannerOptions{Program: programName(), Vehicles: f.vehicles, Demo: fleet.VIN(demoVehicle)})
	if err == nil {
		err = c.attend(ctx, d, f)
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), dev.StopLimit)
	defer cancel()
	return errors.Join(err, d.Stop(stop))
}

// maxDevGateways bounds the load on one machine. roamTime is how long a vehicle stays at a gateway, on average.
const (
	maxDevGateways = 8
	roamTime       = 30 * time.Second
)

// demoVehicle is the number of the vehicle in the banner's commands. The fleet does not drive it.
const demoVehicle = fleet.MaxVehicles - 1

// programName returns how the user called the program, for commands to copy.
func programName() string {
	name := os.Args[0]
	if filepath.Base(name) == name {
		return name
	}
	if abs, err := filepath.Abs(name); err == nil {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, abs); err == nil && filepath.IsLocal(rel) {
				return "./" + rel
			}
		}
		return abs
	}
	return name
}

// attend runs the fleet until Ctrl-C or until the gateway fails.
func (c *cli) attend(ctx context.Context, d *dev.Dev, f *devFlags) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var fleets sync.WaitGroup
	if f.vehicles > 0 {
		fleets.Go(func() { c.drive(ctx, d, f) })
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-d.App.Fatal():
	case failed = <-anyOther(ctx, d.Others):
	}
	cancel()
	fleets.Wait()
	return failed
}

// anyOther delivers the error of the first further gateway that fails.
func anyOther(ctx context.Context, all []*app.App) <-chan error {
	failed := make(chan error, len(all))
	for _, a := range all {
		go func() {
			select {
			case err := <-a.Fatal():
				failed <- err
			case <-ctx.Done():
			}
		}()
	}
	return failed
}

func (c *cli) drive(ctx context.Context, d *dev.Dev, f *devFlags) {
	o := fleet.Normal()
	o.Vehicles, o.Rate, o.QoS, o.AlarmEvery, o.Seed = f.vehicles, f.rate, 1, 10*time.Minute, 1
	o.Drain, o.Every, o.Progress, o.Log = 500*time.Millisecond, 30*time.Second, &progressLog{d.App.Log()}, d.App.Log()
	o.Token = newIssuer(d.App.Authority()).token
	t := &target{data: d.Data}
	l, ok := vehicleListener(d.Config, nil)
	if addr := d.App.Addrs()[l.Name]; ok && addr != nil {
		o.Broker = loopbackFor(addr.String())
	}
	for _, a := range d.Others {
		o.Others, o.Roam = append(o.Others, a.Addrs()[l.Name].String()), roamTime
	}
	if l.TLS {
		config, err := t.clientTLS()
		if err != nil {
			d.App.Log().Error("simulated fleet failed", slog.Any("err", err))
			return
		}
		config.ServerName = "localhost"
		o.TLS = config
	}
	if _, err := fleet.Run(ctx, o); err != nil {
		d.App.Log().Error("simulated fleet failed", slog.Any("err", err))
	}
}

// progressLog turns the fleet's summary lines into log lines.
type progressLog struct{ log *slog.Logger }

// Write implements io.Writer for whole lines.
func (p *progressLog) Write(b []byte) (int, error) {
	p.log.Info("fleet", slog.String("summary", string(trimLine(b))))
	return len(b), nil
}

func trimLine(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

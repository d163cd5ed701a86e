package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"cellgate/broker/clock"
	"cellgate/cmd/cellgate/app"
	"cellgate/configs"
)

// stopLimit is the timeout of a stop when clients or disks are slow.
const stopLimit = 30 * time.Second

func runCommand(c *cli) *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "run the gateway against real Kafka and Redis",
		Long: `run serves vehicles. Kafka, Redis and the centre may be unavailable, also at the start: /readyz and the log report
it, and acknowledged messages are delivered later. SIGHUP reloads the reloadable parts of the configuration.
SIGTERM and Ctrl-C stop the gateway.`,
		Example: "  cellgate run --config configs/cell.yaml",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file")
	_ = cmd.MarkFlagRequired("config") // fails only for a flag that does not exist
	return cmd
}

func (c *cli) serve(ctx context.Context, cfg *configs.Config) error {
	a, err := app.New(ctx, app.Options{Config: cfg, Build: app.Build{Version: version, Commit: commit}, Log: c.err, Clock: clock.System()})
	if err != nil {
		return err
	}
	stop := c.onHangup(a)
	defer stop()
	if err := a.Run(ctx, stopLimit); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// reloader is a process that can reload its configuration.
type reloader interface {
	Serving() <-chan struct{}
	Reload(ctx context.Context) (app.Reloaded, error)
	Log() *slog.Logger
}

// onHangup reloads on each SIGHUP once the gateway serves. The outcome is in the log. Signals during the stop are
// ignored.
func (c *cli) onHangup(a reloader) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-a.Serving():
		case <-done:
			return
		}
		for {
			select {
			case <-c.hangups:
			case <-done:
				return
			}
			if _, err := a.Reload(context.Background()); err != nil {
				a.Log().Error("not reloaded; the previous configuration stays in force", slog.Any("err", err))
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

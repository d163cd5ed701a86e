package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func drainCommand(c *cli) *cobra.Command {
	t := &target{}
	rate, endpoint, stop, show, wait := 0.0, "", false, false, time.Duration(0)
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "move the vehicles to another gateway",
		Long: `drain stops a gateway from accepting vehicles, and disconnects the connected ones at a rate. --endpoint tells them
where to connect instead. --stop ends a drain, --status shows it. --wait returns when no vehicle is connected, or
with exit code 1 after the given time.`,
		Example: `  cellgate drain --rate 50 --endpoint gw-2.example.com:8883
  cellgate drain --rate 200 --wait 5m
  cellgate drain --stop`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			method, body := "POST", any(map[string]any{"rate": rate, "endpoint": endpoint})
			switch {
			case stop:
				method, body = "DELETE", nil
			case show:
				method, body = "GET", nil
			case rate <= 0:
				return usagef("rate: %g: give vehicles per second, above 0", rate)
			}
			if endpoint != "" {
				if err := hostPort(endpoint); err != nil {
					return usagef("endpoint: %w", err)
				}
			}
			client, err := t.client()
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := client.do(cmd.Context(), method, "/v1/drain", body, &raw); err != nil {
				return err
			}
			if wait > 0 {
				if raw, err = awaitDrain(cmd.Context(), client, wait, cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			if len(raw) == 0 {
				raw = json.RawMessage(`{"draining":false}`)
			}
			return c.print(raw, func(p *printer) { printDrain(p, raw, time.Now()) })
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().Float64Var(&rate, "rate", 10, "vehicles per second")
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "host:port where vehicles must connect; empty: their router decides")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the drain")
	cmd.Flags().BoolVar(&show, "status", false, "show the drain")
	durationVar(cmd.Flags(), &wait, "wait", 0, "how long to wait until no vehicle is connected")
	cmd.MarkFlagsMutuallyExclusive("stop", "status")
	cmd.MarkFlagsMutuallyExclusive("stop", "wait")
	return cmd
}

// awaitDrain waits until the drain has left no vehicle connected, and prints its progress.
func awaitDrain(parent context.Context, client *apiClient, limit time.Duration, progress io.Writer) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	for reported := time.Now(); ; {
		var raw json.RawMessage
		err := client.do(ctx, "GET", "/v1/drain", nil, &raw)
		var d app.DrainStatus
		if err == nil {
			err = json.Unmarshal(raw, &d)
		}
		switch {
		case parent.Err() != nil:
			return nil, parent.Err()
		case ctx.Err() != nil:
			return nil, fmt.Errorf("vehicles are still connected after %v: raise --rate, or wait longer", limit)
		case err != nil:
			return nil, err
		case !d.Draining:
			return nil, errors.New("no drain is running: it was ended, or never started")
		case d.Empty:
			return raw, nil
		case time.Since(reported) >= 5*time.Second:
			reported = time.Now()
			_, _ = fmt.Fprintf(progress, "%s sent away, %s connected\n", many(d.SentAway, "vehicle", "vehicles"), many(d.Connected, "client", "clients"))
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// hostPort returns an error for an address that cannot be dialled.
func hostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
		return fmt.Errorf("%q is not host:port, such as gw-2.example.com:8883", address)
	}
	return nil
}

func printDrain(p *printer, raw json.RawMessage, now time.Time) {
	var d app.DrainStatus
	if !p.decode(raw, &d) {
		return
	}
	t := table{}
	t.row("draining", yes(d.Draining))
	if d.Draining {
		t.row("since", whenText(d.Since, now))
		t.row("rate", fmt.Sprintf("%g vehicles per second", d.Rate))
		endpoint := d.Endpoint
		if endpoint == "" {
			endpoint = "none: their router decides"
		}
		t.row("endpoint", endpoint)
	}
	if !d.Since.IsZero() {
		t.row("sent away", many(d.SentAway, "vehicle", "vehicles"))
	}
	t.row("connected", many(d.Connected, "client", "clients"))
	t.write(p)
}

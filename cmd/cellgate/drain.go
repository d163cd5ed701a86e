package main

import (
	"encoding/json"
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
	rate, endpoint, stop, show := 0.0, "", false, false
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "move the vehicles to another gateway",
		Long: `drain makes a gateway take no new vehicles and send away those that it has, at a rate, with an
endpoint to go to. --stop ends a drain, --status shows it.`,
		Example: `  cellgate drain --rate 50 --endpoint gw-2.example.com:8883
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
				return usagef("rate: %g: want vehicles per second, above 0", rate)
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
			if len(raw) == 0 {
				raw = json.RawMessage(`{"draining":false}`)
			}
			return c.print(raw, func(w io.Writer) error { return printDrain(w, raw, time.Now()) })
		},
	}
	t.flags(cmd)
	cmd.Flags().Float64Var(&rate, "rate", 10, "vehicles per second")
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "host:port that vehicles are sent to; empty: their router decides")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the drain")
	cmd.Flags().BoolVar(&show, "status", false, "show the drain")
	cmd.MarkFlagsMutuallyExclusive("stop", "status")
	c.jsonFlag(cmd)
	return cmd
}

// hostPort checks that an address can be dialled.
func hostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
		return fmt.Errorf("%q is not host:port, such as gw-2.example.com:8883", address)
	}
	return nil
}

func printDrain(w io.Writer, raw json.RawMessage, now time.Time) error {
	var d app.DrainStatus
	if err := json.Unmarshal(raw, &d); err != nil {
		return fmt.Errorf("answer: %w", err)
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
	return t.write(w)
}

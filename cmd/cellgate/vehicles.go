package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"cellgate/cmd/cellgate/human"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func vehiclesCommand(c *cli) *cobra.Command {
	t, page := &target{}, &pageFlags{}
	cmd := &cobra.Command{
		Use:   "vehicles [VIN]",
		Short: "list vehicles, or show one",
		Long:  "vehicles shows presence, connection, session and queue of one vehicle or of all.",
		Example: `  cellgate vehicles
  cellgate vehicles LTEST000000000001 --json`,
		Args: mayTake("VIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			query, err := page.query()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return c.showVehicle(cmd, t, args[0])
			}
			return call[app.VehiclePage]{"GET", "/v1/vehicles?" + query.Encode(), nil, func(p *printer, found *app.VehiclePage, now time.Time) {
				printVehicles(p, found, page.cursor, now)
			}}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	page.flags(cmd)
	cmd.AddCommand(vehiclesDisconnectCommand(c))
	return cmd
}

func vehiclesDisconnectCommand(c *cli) *cobra.Command {
	t := &target{}
	endpoint := ""
	cmd := &cobra.Command{
		Use:   "disconnect VIN",
		Short: "close a vehicle's connection, optionally with another endpoint",
		Long: `disconnect closes the connection of a vehicle. Its session is kept, and it may reconnect at once. To prevent that,
revoke its tokens.`,
		Example: `  cellgate vehicles disconnect LTEST000000000001
  cellgate vehicles disconnect LTEST000000000001 --endpoint gw-2.example.com:8883`,
		Args: takes("VIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := ""
			if endpoint != "" {
				if err := hostPort(endpoint); err != nil {
					return usagef("endpoint: %w", err)
				}
				query = "?endpoint=" + url.QueryEscape(endpoint)
			}
			path := "/v1/vehicles/" + url.PathEscape(args[0]) + "/connection" + query
			return c.remove(cmd, t, path, map[string]string{"vin": args[0]}, args[0]+" is being disconnected")
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "host:port that the DISCONNECT names to an MQTT 5 vehicle")
	return cmd
}

// printVehicles prints a page of the list. after is the cursor that it began at.
func printVehicles(p *printer, page *app.VehiclePage, after string, now time.Time) {
	t := table{}
	t.row("VIN", "CONNECTED", "READY", "MQTT", "SINCE", "QUEUED")
	for _, v := range page.Vehicles {
		t.row(v.VIN, yes(v.Connected), yes(v.Ready), dash(v.MQTT), whenText(v.Since, now), countText(v.Queued))
	}
	t.write(p)
	switch {
	case len(page.Vehicles) == 0 && after != "":
		p.say("none after %s: the list ends there\n", after)
	case len(page.Vehicles) == 0:
		p.say("none: no vehicle has a session here\n")
	case page.Next != "":
		p.say("more with --cursor %s\n", page.Next)
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (c *cli) showVehicle(cmd *cobra.Command, t *target, vin string) error {
	err := call[json.RawMessage]{"GET", "/v1/vehicles/" + url.PathEscape(vin), nil, printVehicle}.print(cmd, c, t)
	var no *apiError
	if errors.As(err, &no) && no.Status == http.StatusNotFound {
		return fmt.Errorf("%w; `cellgate vehicles` lists those that it has", err)
	}
	return err
}

func printVehicle(p *printer, raw *json.RawMessage, now time.Time) {
	var v app.Vehicle
	if !p.decode(*raw, &v) {
		return
	}
	parts := []string{v.VIN, "not connected"}
	if v.Connected {
		parts = []string{v.VIN, "connected", "MQTT " + v.MQTT}
	}
	ready := "not ready for commands: no subscription to v1/" + v.VIN + "/cmd/#"
	if v.Ready {
		ready = "ready for commands"
	} else if !v.Connected {
		ready = "commands wait until it connects"
	}
	p.headline(append(parts, ready)...)
	t := table{}
	t.row("since", whenText(v.Since, now))
	t.row("token ends", whenText(v.TokenEnds, now))
	if v.Connected {
		t.row("session", "kept "+v.SessionExpiry+" after the connection")
	} else {
		t.row("session ends", whenText(v.SessionEnds, now))
	}
	t.row("queued", fmt.Sprintf("%s, %s; %d in flight", many(v.Queued, "message", "messages"), human.Size(v.QueuedBytes), v.Inflight))
	if v.Will {
		t.row("will", "set")
	}
	for i, s := range v.Subscriptions {
		name := ""
		if i == 0 {
			name = "subscribed"
		}
		t.row(name, fmt.Sprintf("%s  QoS %d", s.Filter, s.QoS))
	}
	t.pairs(p)
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/fleet"
)

// vehicleInfo is one line of GET /v1/vehicles.
type vehicleInfo struct {
	VIN       string `json:"vin"`
	Connected bool   `json:"connected"`
	Ready     bool   `json:"ready"`
	MQTT      string `json:"mqtt,omitempty"`
	Since     string `json:"since"`
	Queued    int    `json:"queued"`
}

type vehiclePage struct {
	Vehicles []vehicleInfo `json:"vehicles"`
	Next     string        `json:"next"`
}

func vehiclesCommand(c *cli) *cobra.Command {
	t := &target{}
	limit, cursor := 0, ""
	cmd := &cobra.Command{
		Use:   "vehicles [VIN]",
		Short: "list vehicles, or show one",
		Long:  "vehicles shows presence, connection, session and queue, of one vehicle or of all.",
		Example: `  cellgate vehicles
  cellgate vehicles LTEST000000000001 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				var raw json.RawMessage
				if err := client.do(cmd.Context(), "GET", "/v1/vehicles/"+url.PathEscape(args[0]), nil, &raw); err != nil {
					return err
				}
				return c.print(raw, func(w io.Writer) error { return writeTree(w, raw) })
			}
			query := url.Values{"limit": {strconv.Itoa(limit)}}
			if cursor != "" {
				query.Set("cursor", cursor)
			}
			var page vehiclePage
			if err := client.do(cmd.Context(), "GET", "/v1/vehicles?"+query.Encode(), nil, &page); err != nil {
				return err
			}
			return c.print(page, func(w io.Writer) error { return printVehicles(w, &page) })
		},
	}
	t.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many")
	cmd.Flags().StringVar(&cursor, "cursor", "", "go on where the list before ended")
	c.jsonFlag(cmd)
	return cmd
}

func printVehicles(w io.Writer, page *vehiclePage) error {
	t := table{}
	t.row("VIN", "CONNECTED", "COMMANDS", "MQTT", "SINCE", "QUEUED")
	for _, v := range page.Vehicles {
		t.row(v.VIN, yes(v.Connected), yes(v.Ready), v.MQTT, v.Since, strconv.Itoa(v.Queued))
	}
	if err := t.write(w); err != nil || page.Next == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "more with --cursor %s\n", page.Next)
	return err
}

func yes(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

// ledgerPage is GET /v1/ledger.
type ledgerPage struct {
	Sinks []sinkLine `json:"sinks"`
}

type sinkLine struct {
	Sink         string            `json:"sink"`
	Received     uint64            `json:"received"`
	Delivered    uint64            `json:"delivered"`
	Filtered     uint64            `json:"filtered"`
	DeadLettered uint64            `json:"dead_lettered"`
	Dropped      map[string]uint64 `json:"dropped"`
	Pending      uint64            `json:"pending"`
	Balanced     bool              `json:"balanced"`
}

func statusCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show a gateway's state and its loss ledger",
		Long: `status shows what a gateway says of itself, and per sink the ledger: received = delivered +
filtered + dead-lettered + dropped + pending. The exit code is 1 when a line does not add up.`,
		Example: "  cellgate status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			var status json.RawMessage
			var ledger ledgerPage
			err = errors.Join(client.do(cmd.Context(), "GET", "/v1/status", nil, &status), client.do(cmd.Context(), "GET", "/v1/ledger", nil, &ledger))
			if err != nil {
				return err
			}
			both := map[string]any{"status": status, "ledger": ledger.Sinks}
			if err := c.print(both, func(w io.Writer) error { return printStatus(w, status, ledger.Sinks) }); err != nil {
				return err
			}
			for _, s := range ledger.Sinks {
				if !s.Balanced {
					return fmt.Errorf("ledger: %s does not add up: messages are missing or counted twice", s.Sink)
				}
			}
			return nil
		},
	}
	t.flags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func printStatus(w io.Writer, status json.RawMessage, sinks []sinkLine) error {
	if err := writeTree(w, status); err != nil {
		return err
	}
	t := table{}
	t.row("\nSINK", "RECEIVED", "DELIVERED", "FILTERED", "DEAD-LETTERED", "DROPPED", "PENDING", "ADDS UP")
	for _, s := range sinks {
		dropped := uint64(0)
		var why []string
		for _, reason := range slices.Sorted(maps.Keys(s.Dropped)) {
			dropped += s.Dropped[reason]
			why = append(why, reason)
		}
		text := fleet.Count(dropped)
		if dropped > 0 {
			text += " (" + strings.Join(why, ", ") + ")"
		}
		adds := "yes"
		if !s.Balanced {
			adds = "NO"
		}
		t.row(s.Sink, fleet.Count(s.Received), fleet.Count(s.Delivered), fleet.Count(s.Filtered), fleet.Count(s.DeadLettered), text, fleet.Count(s.Pending), adds)
	}
	return t.write(w)
}

// writeTree prints a JSON object for people: one line per value, nested objects indented.
func writeTree(w io.Writer, raw json.RawMessage) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	var b strings.Builder
	tree(&b, v, 0)
	_, err := io.WriteString(w, b.String())
	return err
}

func tree(b *strings.Builder, v any, depth int) {
	indent := strings.Repeat("  ", depth)
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if leaf(v[k]) {
				fmt.Fprintf(b, "%s%-*s %v\n", indent, max(1, 20-2*depth), k, text(v[k]))
				continue
			}
			fmt.Fprintf(b, "%s%s\n", indent, k)
			tree(b, v[k], depth+1)
		}
	case []any:
		for _, e := range v {
			if leaf(e) {
				fmt.Fprintf(b, "%s- %v\n", indent, text(e))
				continue
			}
			fmt.Fprintf(b, "%s-\n", indent)
			tree(b, e, depth+1)
		}
	}
}

func leaf(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return true
}

func text(v any) any {
	switch v := v.(type) {
	case nil, map[string]any, []any:
		return "-"
	case bool:
		return yes(v)
	}
	return v
}

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
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			method, body := "POST", any(map[string]any{"rate": rate, "endpoint": endpoint})
			switch {
			case stop:
				method, body = "DELETE", nil
			case show:
				method, body = "GET", nil
			case rate <= 0:
				return usagef("rate: %g: want vehicles per second, above 0", rate)
			}
			var raw json.RawMessage
			if err := client.do(cmd.Context(), method, "/v1/drain", body, &raw); err != nil {
				return err
			}
			if len(raw) == 0 {
				raw = json.RawMessage(`{"draining":false}`)
			}
			return c.print(raw, func(w io.Writer) error { return writeTree(w, raw) })
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

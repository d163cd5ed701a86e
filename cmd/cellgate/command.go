package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func commandCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "command",
		Short:   "send commands to vehicles and follow them",
		Example: `  cellgate command send --vin LTEST000000000001 --name unlock --payload '{"doors":"all"}' --wait`,
	}
	cmd.AddCommand(commandSendCommand(c), commandStatusCommand(c))
	return cmd
}

// commandState is the part of a command's document that the text output shows.
type commandState struct {
	ID      string          `json:"id"`
	VIN     string          `json:"vin"`
	Name    string          `json:"name"`
	State   string          `json:"state"`
	Cause   string          `json:"cause"`
	Result  json.RawMessage `json:"result"`
	Expires string          `json:"expires_at"`
}

// final reports whether nothing follows the state but a late result.
func (s *commandState) final() bool {
	switch s.State {
	case "succeeded", "failed", "rejected", "expired", "cancelled":
		return true
	}
	return false
}

// failed reports whether the command did not do what was asked.
func (s *commandState) failed() bool { return s.final() && s.State != "succeeded" }

// sendFlags are what `command send` is told.
type sendFlags struct {
	target
	vin, name, payload, id string
	ttl, wait              time.Duration
}

const defaultWait = 30 * time.Second

func commandSendCommand(c *cli) *cobra.Command {
	f := &sendFlags{}
	cmd := &cobra.Command{
		Use:   "send --vin VIN --name NAME",
		Short: "send a command to a vehicle",
		Long: `send hands a command to the gateway, which keeps it until the vehicle answers or it expires. With
--wait it waits for the final state, and the exit code is 1 when that is not "succeeded".`,
		Example: `  cellgate command send --vin LTEST000000000001 --name unlock --payload '{"doors":"all"}' --wait
  cellgate command send --vin LTEST000000000001 --name honk --ttl 10s --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.send(cmd, f) },
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.vin, "vin", "", "the vehicle")
	cmd.Flags().StringVar(&f.name, "name", "", "the command's name")
	cmd.Flags().StringVar(&f.payload, "payload", "", "JSON that the vehicle gets")
	cmd.Flags().StringVar(&f.id, "id", "", "the command's id; sending the same again changes nothing (default: a new one)")
	cmd.Flags().DurationVar(&f.ttl, "ttl", 0, "how long the command is worth anything (default commands.default_ttl)")
	cmd.Flags().DurationVar(&f.wait, "wait", 0, "wait for the final state, at most so long (30s when no time is given)")
	cmd.Flags().Lookup("wait").NoOptDefVal = defaultWait.String()
	_ = cmd.MarkFlagRequired("vin")  // fails only for a flag that does not exist
	_ = cmd.MarkFlagRequired("name") // likewise
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) send(cmd *cobra.Command, f *sendFlags) error {
	body := map[string]any{"name": f.name}
	if f.payload != "" {
		if !json.Valid([]byte(f.payload)) {
			return usagef("payload: not JSON: quote it for the shell, as in '{\"doors\":\"all\"}'")
		}
		body["payload"] = json.RawMessage(f.payload)
	}
	if f.id != "" {
		body["id"] = f.id
	}
	if f.ttl > 0 {
		body["ttl"] = f.ttl.String()
	}
	client, err := f.client()
	if err != nil {
		return err
	}
	path := "/v1/vehicles/" + url.PathEscape(f.vin) + "/commands"
	if f.wait > 0 {
		path += "?wait=" + url.QueryEscape(f.wait.String())
	}
	return c.commandCall(cmd, client, "POST", path, body, f.wait > 0)
}

// commandCall makes a call whose answer is a command, and prints that.
func (c *cli) commandCall(cmd *cobra.Command, client *apiClient, method, path string, body any, wait bool) error {
	var raw json.RawMessage
	if err := client.do(cmd.Context(), method, path, body, &raw); err != nil {
		return err
	}
	var s commandState
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	err := c.print(raw, func(w io.Writer) error {
		t := table{}
		t.row("id", s.ID)
		t.row("vin", s.VIN)
		t.row("name", s.Name)
		t.row("state", s.State)
		t.row("cause", s.Cause)
		t.row("expires", s.Expires)
		t.row("result", string(s.Result))
		return t.pairs(w)
	})
	if err == nil && wait && (s.failed() || !s.final()) {
		return silentError{}
	}
	return err
}

func commandStatusCommand(c *cli) *cobra.Command {
	t := &target{}
	vin := ""
	cmd := &cobra.Command{
		Use:     "status ID",
		Short:   "show a command's state and history",
		Example: "  cellgate command status 01J9ZC3V6Q --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			if vin == "" {
				if vin, err = findCommand(cmd, client, args[0]); err != nil {
					return err
				}
			}
			return c.commandCall(cmd, client, "GET", "/v1/vehicles/"+url.PathEscape(vin)+"/commands/"+url.PathEscape(args[0]), nil, false)
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&vin, "vin", "", "the vehicle; looked up when not given")
	c.jsonFlag(cmd)
	return cmd
}

// commandPage is one page of GET /v1/commands.
type commandPage struct {
	Commands []commandState `json:"commands"`
	Next     string         `json:"next"`
}

// findCommand looks for the vehicle of a command among all of them.
func findCommand(cmd *cobra.Command, client *apiClient, id string) (vin string, err error) {
	query := url.Values{"limit": {"1000"}}
	for {
		var page commandPage
		if err := client.do(cmd.Context(), "GET", "/v1/commands?"+query.Encode(), nil, &page); err != nil {
			return "", err
		}
		for _, s := range page.Commands {
			if s.ID == id {
				return s.VIN, nil
			}
		}
		if page.Next == "" {
			return "", fmt.Errorf("command: no command %s", id)
		}
		query.Set("cursor", page.Next)
	}
}

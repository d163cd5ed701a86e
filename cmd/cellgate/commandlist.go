package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// watchEvery is how often the state of a watched command is polled.
const watchEvery = 250 * time.Millisecond

func commandCancelCommand(c *cli) *cobra.Command {
	f := &commandFlags{}
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "cancel a command that has not been sent",
		Long: `cancel ends a command that is still queued. It refuses a command that was sent, because the vehicle may have executed
it; the exit code is then 1.`,
		Example: "  cellgate command cancel 01J9ZC3V6Q",
		Args:    takes("ID"),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.one(cmd, f, "DELETE", args[0]) },
	}
	f.flags(c, cmd)
	return cmd
}

func commandWatchCommand(c *cli) *cobra.Command {
	f := &commandFlags{}
	cmd := &cobra.Command{
		Use:   "watch ID",
		Short: "follow a command until its final state",
		Long: `watch prints a line for each state that the command enters, and ends with the final one. The exit code is 1 unless
that is "succeeded". With --json each line is the command as a JSON object.`,
		Example: "  cellgate command watch 01J9ZC3V6Q",
		Args:    takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, path, err := f.path(cmd, args[0])
			if err != nil {
				return err
			}
			last, err := watchCommand(cmd.Context(), client, path, func(raw json.RawMessage, s *commandState) error {
				return c.print(raw, func(p *printer) { s.line(p, time.Now()) })
			})
			if err == nil && last.failed() {
				return silentError{}
			}
			return err
		},
	}
	f.flags(c, cmd)
	return cmd
}

// watchCommand calls tell for each state that it sees, and returns the final one.
func watchCommand(ctx context.Context, client *apiClient, path string, tell func(json.RawMessage, *commandState) error) (*commandState, error) {
	for seen := ""; ; {
		raw, s, err := commandCall(ctx, client, "GET", path, nil)
		if err != nil {
			return nil, err
		}
		if s.State != seen {
			seen = s.State
			if err := tell(raw, s); err != nil {
				return nil, err
			}
		}
		if s.final() {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("command: %s: %s when the watching was stopped; the command continues", s.ID, s.State)
		case <-time.After(watchEvery):
		}
	}
}

// line prints the command's state and its reason.
func (s *commandState) line(p *printer, now time.Time) {
	text := now.UTC().Format(time.TimeOnly) + "  " + s.State
	for _, more := range []string{s.Cause, string(s.Result)} {
		if more != "" {
			text += "  " + more
		}
	}
	p.say("%s\n", text)
}

// commandPage is GET /v1/commands.
type commandPage struct {
	Commands []commandState `json:"commands"`
	Cursor   string         `json:"next"` // cursor of the next page; absent on the last
}

func commandListCommand(c *cli) *cobra.Command {
	t, page := &target{}, &pageFlags{}
	vin, state := "", ""
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list commands, of all vehicles or of one",
		Example: `  cellgate command list --state queued
  cellgate command list --vin LTEST000000000001 --limit 10 --json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := page.query()
			if err != nil {
				return err
			}
			for name, value := range map[string]string{"vin": vin, "state": state} {
				if value != "" {
					query.Set(name, value)
				}
			}
			return call[json.RawMessage]{"GET", "/v1/commands?" + query.Encode(), nil, printCommands}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().StringVar(&vin, "vin", "", "only commands of this vehicle")
	cmd.Flags().StringVar(&state, "state", "", "only commands in this state, such as queued, sent, succeeded or expired")
	page.flags(cmd)
	return cmd
}

func printCommands(p *printer, raw *json.RawMessage, now time.Time) {
	var page commandPage
	if !p.decode(*raw, &page) {
		return
	}
	t := headed("ID", "VIN", "NAME", "STATE", "CREATED")
	for _, s := range page.Commands {
		t.row(s.ID, s.VIN, s.Name, s.State, whenText(s.Created, now))
	}
	p.list(t, page.Cursor)
}

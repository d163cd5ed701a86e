package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cellgate/auth"
)

func commandCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "command",
		Short:   "send commands to vehicles and follow them",
		Example: `  cellgate command send --vin LTEST000000000001 --name unlock --payload '{"doors":"all"}' --wait`,
	}
	cmd.AddCommand(commandSendCommand(c), commandStatusCommand(c), commandListCommand(c), commandCancelCommand(c), commandWatchCommand(c))
	return cmd
}

// commandState is the part of a command's document that the text output shows.
type commandState struct {
	ID        string          `json:"id"`
	VIN       string          `json:"vin"`
	Name      string          `json:"name"`
	State     string          `json:"state"`
	Cause     string          `json:"cause"`
	Outcome   string          `json:"outcome"`
	Payload   json.RawMessage `json:"payload"`
	Result    json.RawMessage `json:"result"`
	Origin    string          `json:"origin"`
	By        string          `json:"by"`
	Urgent    bool            `json:"urgent"`
	Created   time.Time       `json:"created_at"`
	Sent      time.Time       `json:"sent_at"`
	Delivered time.Time       `json:"delivered_at"`
	Accepted  time.Time       `json:"accepted_at"`
	Finished  time.Time       `json:"finished_at"`
	Expires   time.Time       `json:"expires_at"`
}

// final reports whether only a late result can follow the state.
func (s *commandState) final() bool {
	switch s.State {
	case "succeeded", "failed", "rejected", "expired", "cancelled", "late":
		return true
	}
	return false
}

// failed reports whether the command did not do what was asked.
func (s *commandState) failed() bool { return s.final() && s.State != "succeeded" }

// reachedAt is when a command reached a state.
type reachedAt struct {
	state string
	at    time.Time
}

// print shows the command, and how long after its creation it reached each state.
func (s *commandState) print(p *printer, now time.Time) {
	t := table{}
	t.row("id", s.ID)
	t.row("vin", s.VIN)
	t.row("name", s.Name)
	t.row("payload", string(s.Payload))
	t.row("state", s.State)
	t.row("cause", s.Cause)
	t.row("outcome", s.Outcome)
	t.row("result", string(s.Result))
	from := s.Origin
	if s.By != "" {
		from += ", " + s.By
	}
	t.row("from", from)
	if s.Urgent {
		t.row("urgent", "yes")
	}
	t.row("created", whenText(s.Created, now))
	reached := []reachedAt{{"sent", s.Sent}, {"delivered", s.Delivered}, {"accepted", s.Accepted}, {s.State, s.Finished}}
	slices.SortStableFunc(reached, func(a, b reachedAt) int { return a.at.Compare(b.at) }) // a result may overtake the PUBACK
	for _, r := range reached {
		if !r.at.IsZero() {
			t.row(r.state, "after "+r.at.Sub(s.Created).String())
		}
	}
	if !s.final() {
		t.row("expires", whenText(s.Expires, now))
	}
	t.pairs(p)
}

// sendFlags are the flags of `command send`.
type sendFlags struct {
	target
	vin, name, payload, id string
	ttl, wait              time.Duration
	urgent                 bool
}

const defaultWait = 30 * time.Second

func commandSendCommand(c *cli) *cobra.Command {
	f := &sendFlags{}
	cmd := &cobra.Command{
		Use:   "send --vin VIN --name NAME",
		Short: "send a command to a vehicle",
		Long: `send passes a command to the gateway, which keeps it until the vehicle answers or it expires. --wait waits for
the final state; the exit code is then 1 unless that is "succeeded".`,
		Example: `  cellgate command send --vin LTEST000000000001 --name unlock --payload '{"doors":"all"}' --wait
  cellgate command send --vin LTEST000000000001 --name honk --ttl 10s --json
  cellgate command send --vin LTEST000000000001 --name update --ttl 7d
  cellgate command send --vin LTEST000000000001 --name stop --urgent --wait`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.send(cmd, f) },
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.vin, "vin", "", "the vehicle")
	cmd.Flags().StringVar(&f.name, "name", "", "the command's name")
	cmd.Flags().StringVar(&f.payload, "payload", "", "JSON that the vehicle gets")
	cmd.Flags().StringVar(&f.id, "id", "", "the command's id; sending the same again changes nothing (default: a new one)")
	durationVar(cmd.Flags(), &f.ttl, "ttl", 0, "how long the command is valid, such as 90s or 7d (default commands.default_ttl)")
	cmd.Flags().BoolVar(&f.urgent, "urgent", false, "send it before the vehicle's other queued commands")
	durationVar(cmd.Flags(), &f.wait, "wait", 0, "how long to wait for the final state (30s if no time is given)")
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
	if f.vin == "" || f.name == "" {
		return usagef("command send: --vin and --name are not empty")
	}
	if f.ttl < 0 || f.wait < 0 {
		return usagef("command send: --ttl and --wait are not negative")
	}
	if f.id != "" {
		body["id"] = f.id
	}
	if f.ttl > 0 {
		body["ttl"] = f.ttl.String()
	}
	if f.urgent {
		body["urgent"] = true
	}
	client, err := f.client()
	if err != nil {
		return err
	}
	if warning := auth.CheckVIN(f.vin); !warning.Shape {
		fmt.Fprintf(c.err, "cellgate: vin: %s: %s; the command is sent anyway\n", f.vin, warning.Warning()) //nolint:errcheck // a hint
	}
	start := time.Now()
	raw, s, err := follow(cmd.Context(), client, "/v1/vehicles/"+url.PathEscape(f.vin)+"/commands", body, f.wait)
	if s == nil {
		return err
	}
	if err := c.print(raw, func(p *printer) { s.print(p, time.Now()) }); err != nil || f.wait <= 0 {
		return err
	}
	switch waited := time.Since(start).Round(100 * time.Millisecond); {
	case cmd.Context().Err() != nil:
		return fmt.Errorf("command: %s: %s when the waiting was stopped after %s; the command continues, see `cellgate command status %s`", s.ID, s.State, waited, s.ID)
	case err != nil:
		return fmt.Errorf("command: %s: accepted, %s at its last answer: %w", s.ID, s.State, err)
	case !s.final():
		return fmt.Errorf("command: %s: still %s after %s; see `cellgate command status %s`", s.ID, s.State, f.wait, s.ID)
	}
	if s.failed() {
		return silentError{}
	}
	return nil
}

// longestWait is the ?wait= of one call; the gateway's own bound is a minute.
const longestWait = 50 * time.Second

// follow sends a command and waits for its final state. A long wait takes several calls with the same id: they do not
// repeat the command. When waiting fails, it returns the last answer and state with the error. s is nil when the
// command was not accepted.
func follow(ctx context.Context, client *apiClient, path string, body map[string]any, wait time.Duration) (json.RawMessage, *commandState, error) {
	deadline := time.Now().Add(wait)
	raw, s, err := commandCall(ctx, client, "POST", path, body)
	for err == nil && !s.final() && time.Until(deadline) > 0 {
		body["id"] = s.ID
		left := max(time.Millisecond, min(time.Until(deadline), longestWait).Round(time.Millisecond))
		query := "?wait=" + url.QueryEscape(left.String())
		newRaw, newState, err := commandCall(ctx, client, "POST", path+query, body)
		if err != nil {
			return raw, s, err
		}
		raw, s = newRaw, newState
	}
	return raw, s, err
}

// commandCall makes a call that answers with a command.
func commandCall(ctx context.Context, client *apiClient, method, path string, body any) (json.RawMessage, *commandState, error) {
	var raw json.RawMessage
	if err := client.do(ctx, method, path, body, &raw); err != nil {
		return nil, nil, err
	}
	s := &commandState{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, nil, fmt.Errorf("answer: %w", err)
	}
	return raw, s, nil
}

// commandFlags identify a command.
type commandFlags struct {
	target
	vin string
}

func (f *commandFlags) flags(c *cli, cmd *cobra.Command) {
	f.target.flags(cmd)
	cmd.Flags().StringVar(&f.vin, "vin", "", "the vehicle; looked up if not given")
	c.jsonFlag(cmd)
}

// path returns the path of the command's document.
func (f *commandFlags) path(cmd *cobra.Command, id string) (client *apiClient, path string, err error) {
	if client, err = f.client(); err != nil {
		return nil, "", err
	}
	if f.vin == "" {
		if f.vin, err = findCommand(cmd, client, id); err != nil {
			return nil, "", err
		}
	}
	return client, "/v1/vehicles/" + url.PathEscape(f.vin) + "/commands/" + url.PathEscape(id), nil
}

func commandStatusCommand(c *cli) *cobra.Command {
	f := &commandFlags{}
	cmd := &cobra.Command{
		Use:     "status ID",
		Short:   "show a command's state and history",
		Example: "  cellgate command status 01J9ZC3V6Q --json",
		Args:    takes("ID"),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.one(cmd, f, "GET", args[0]) },
	}
	f.flags(c, cmd)
	return cmd
}

// one makes a call about a command and prints the command's new state.
func (c *cli) one(cmd *cobra.Command, f *commandFlags, method, id string) error {
	client, path, err := f.path(cmd, id)
	if err != nil {
		return err
	}
	raw, s, err := commandCall(cmd.Context(), client, method, path, nil)
	if err != nil {
		return err
	}
	return c.print(raw, func(p *printer) { s.print(p, time.Now()) })
}

// findCommand searches all commands for the vehicle of a command.
func findCommand(cmd *cobra.Command, client *apiClient, id string) (vin string, err error) {
	var page struct {
		Commands []commandState `json:"commands"`
	}
	if err := client.do(cmd.Context(), "GET", "/v1/commands?id="+url.QueryEscape(id), nil, &page); err != nil {
		return "", err
	}
	if len(page.Commands) == 0 {
		return "", fmt.Errorf("command: no command %s; `cellgate command send` prints the id, and a finished command is forgotten after commands.keep_for", id)
	}
	return page.Commands[0].VIN, nil
}

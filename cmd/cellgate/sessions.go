package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"cellgate/cmd/cellgate/human"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func sessionsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "list, show and end the sessions of vehicles, services and operators",
		Long:  `sessions shows the sessions of MQTT clients, connected or not: subscriptions, queued messages, and expiry.`,
		Example: `  cellgate sessions list
  cellgate sessions show billing --role service`,
	}
	cmd.AddCommand(sessionsListCommand(c), sessionsShowCommand(c), sessionsEndCommand(c))
	return cmd
}

func sessionsListCommand(c *cli) *cobra.Command {
	t, page := &target{}, &pageFlags{}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "list sessions",
		Example: "  cellgate sessions list --limit 10",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := page.query()
			if err != nil {
				return err
			}
			return call[app.SessionPage]{"GET", "/v1/sessions?" + query.Encode(), nil, printSessions}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	page.flags(cmd)
	return cmd
}

func printSessions(p *printer, page *app.SessionPage, now time.Time) {
	t := headed("CLIENT", "ROLE", "CONNECTED", "SINCE", "ENDS", "QUEUED")
	for i := range page.Sessions {
		s := &page.Sessions[i]
		t.row(s.Client, s.Role, yes(s.Connected), whenText(s.Since, now), dash(whenText(s.SessionEnds, now)), countText(s.Queued))
	}
	p.list(t, page.Next)
}

// sessionName identifies the role and issuer of a session.
type sessionName struct{ role, issuer string }

func (n *sessionName) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.role, "role", "vehicle", "the client's role")
	cmd.Flags().StringVar(&n.issuer, "issuer", "", "issuer of the client's tokens (default the cell itself)")
}

func (n *sessionName) path(client string) string {
	query := url.Values{"role": {n.role}}
	if n.issuer != "" {
		query.Set("issuer", n.issuer)
	}
	return "/v1/sessions/" + url.PathEscape(client) + "?" + query.Encode()
}

func sessionsShowCommand(c *cli) *cobra.Command {
	t, name := &target{}, &sessionName{}
	cmd := &cobra.Command{
		Use:   "show CLIENT",
		Short: "show one session",
		Example: `  cellgate sessions show LTEST000000000001
  cellgate sessions show billing/2 --role service`,
		Args: takes("CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call[app.Session]{"GET", name.path(args[0]), nil, printSession}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	name.flags(cmd)
	return cmd
}

func printSession(p *printer, s *app.Session, now time.Time) {
	t := table{}
	t.row("client", s.Client)
	t.row("role", s.Role)
	t.row("issuer", s.Issuer)
	t.row("connected", strings.TrimSpace(yes(s.Connected)+", since "+whenText(s.Since, now)))
	t.row("MQTT", s.MQTT)
	t.row("token ends", whenText(s.TokenEnds, now))
	t.row("session", "kept "+s.SessionExpiry+" after the connection")
	t.row("session ends", whenText(s.SessionEnds, now))
	t.row("queued", fmt.Sprintf("%s, %s; %d in flight", many(s.Queued, "message", "messages"), human.Size(s.QueuedBytes), s.Inflight))
	for i, sub := range s.Subscriptions {
		name := ""
		if i == 0 {
			name = "subscribed"
		}
		t.row(name, fmt.Sprintf("%s  QoS %d", sub.Filter, sub.QoS))
	}
	t.pairs(p)
}

func sessionsEndCommand(c *cli) *cobra.Command {
	t, name := &target{}, &sessionName{}
	cmd := &cobra.Command{
		Use:   "end CLIENT",
		Short: "delete a session with its queued messages",
		Long: `end closes a client's connection and deletes its session with subscriptions and queued messages. The client may
reconnect at once, with a new session. Commands that wait for a vehicle are kept.`,
		Example: "  cellgate sessions end billing --role service",
		Args:    takes("CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.remove(cmd, t, name.path(args[0]), map[string]string{"client": args[0]}, "the session of "+args[0]+" has ended")
		},
	}
	c.callFlags(cmd, t)
	name.flags(cmd)
	return cmd
}

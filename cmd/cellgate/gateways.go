package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func gatewaysCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gateways",
		Short: "list the gateways of the cell, and forget one that does not return",
		Long: `gateways shows the gateways of the cell: which are alive, which versions, rules and configurations they run, and for
which of them commands wait after Redis has lost data.`,
		Example: `  cellgate gateways list
  cellgate gateways forget gw-2`,
	}
	cmd.AddCommand(gatewaysListCommand(c), gatewaysForgetCommand(c))
	return cmd
}

func gatewaysListCommand(c *cli) *cobra.Command {
	return call[app.GatewayList]{"GET", "/v1/gateways", nil, printGateways}.command(c, &cobra.Command{
		Use:     "list",
		Short:   "list the gateways of the cell",
		Example: "  cellgate gateways list",
	})
}

func printGateways(p *printer, list *app.GatewayList, now time.Time) {
	gatewaysTable(list.Gateways, now).write(p)
	if len(list.Waiting) > 0 {
		p.say("\nCommands are refused: %s. Start it, or `cellgate gateways forget NODE` if it does not return, with its disk.\n", waitingText(list.Waiting))
	}
}

func waitingText(all []app.WaitedFor) string {
	var names []string
	for _, one := range all {
		names = append(names, fmt.Sprintf("%s (in %s)", one.Node, many(one.Slots, "slot", "slots")))
	}
	return "waiting for the state of these gateways: " + strings.Join(names, ", ")
}

func gatewaysForgetCommand(c *cli) *cobra.Command {
	t, yes := &target{}, false
	cmd := &cobra.Command{
		Use:   "forget NODE",
		Short: "continue without a gateway that does not return",
		Long: `forget removes a gateway that will not return and whose disk is lost. After Redis has lost data, the other gateways
accept no commands until every gateway has restored its part; without forget they wait for the lost one indefinitely.

State that only this gateway had is lost. If the Redis server has been replaced, or is replaced later, the gateway may
have sent commands that are still queued: these are not sent again, cannot be cancelled, and end as expired with cause
unknown. Commands that only this gateway had are then unknown (404).

A gateway that is alive is refused. Without --yes forget only shows the effect, with exit code 1. It can be repeated.`,
		Example: `  cellgate gateways forget gw-2
  cellgate gateways forget gw-2 --yes`,
		Args: takes("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			if !yes {
				return c.wouldForget(cmd, client, args[0])
			}
			var done app.ForgottenGateway
			if err := client.do(cmd.Context(), "DELETE", "/v1/gateways/"+url.PathEscape(args[0]), nil, &done); err != nil {
				return err
			}
			return c.print(done, func(p *printer) { printForgotten(p, &done) })
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().BoolVar(&yes, "yes", false, "carry it out")
	return cmd
}

// wouldForget shows what is known of a gateway without changing anything.
func (c *cli) wouldForget(cmd *cobra.Command, client *apiClient, node string) error {
	var list app.GatewayList
	if err := client.do(cmd.Context(), "GET", "/v1/gateways", nil, &list); err != nil {
		return err
	}
	var found app.GatewayList
	for i := range list.Gateways {
		if list.Gateways[i].Node == node {
			found.Gateways = append(found.Gateways, list.Gateways[i])
		}
	}
	for _, one := range list.Waiting {
		if one.Node == node {
			found.Waiting = append(found.Waiting, one)
		}
	}
	if err := c.print(found, func(p *printer) { printWouldForget(p, node, &found, time.Now()) }); err != nil {
		return err
	}
	return silentError{}
}

func printWouldForget(p *printer, node string, found *app.GatewayList, now time.Time) {
	gatewaysTable(found.Gateways, now).write(p)
	if len(found.Waiting) > 0 {
		p.say("commands are %s\n", waitingText(found.Waiting))
	}
	p.say("would be lost: state that only %s has; commands queued so far may end as unknown\n", node)
	p.say("\nNothing was changed. `cellgate gateways forget %s --yes` does it; first make sure that the gateway is stopped and does not return.\n", node)
}

func printForgotten(p *printer, done *app.ForgottenGateway) {
	if done.Slots == 0 {
		p.say("%s is no longer a member of the cell: it was forgotten earlier\n", done.Node)
	} else {
		p.say("%s is forgotten in %s; state that only it had is lost\n", done.Node, many(done.Slots, "slot", "slots"))
	}
	if len(done.Waiting) > 0 {
		p.say("commands are still %s\n", waitingText(done.Waiting))
	}
}

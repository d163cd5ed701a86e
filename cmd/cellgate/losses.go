package main

import (
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
	"cellgate/cmd/cellgate/fleet"
)

func lossesCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "losses",
		Short: "list and acknowledge losses of the data folder",
		Long: `losses shows which parts of data_dir were missing or damaged when the gateway started without them, and how many
messages each sink lost with the journal. /readyz is degraded until an operator acknowledges all losses.`,
		Example: `  cellgate losses list
  cellgate losses acknowledge`,
	}
	all := func(method, path, use, short string) *cobra.Command {
		return call[app.LossAnswer]{method, path, nil, printLosses}.command(c, &cobra.Command{Use: use, Short: short, Example: "  cellgate losses " + use})
	}
	cmd.AddCommand(
		all("GET", "/v1/losses", "list", "list the losses of the data folder"),
		all("POST", "/v1/losses/acknowledge", "acknowledge", "acknowledge all losses so far; /readyz no longer reports them"),
	)
	return cmd
}

func printLosses(p *printer, a *app.LossAnswer, now time.Time) {
	if len(a.Losses)+len(a.Dropped) == 0 {
		p.say("nothing was lost\n")
	}
	found, dropped := headed("FOUND", "PART", "ACKNOWLEDGED", "WHAT"), headed("SINK", "REASON", "MESSAGES", "ACKNOWLEDGED")
	for i := range a.Losses {
		one, acknowledged := &a.Losses[i], "NO"
		if !one.Acknowledged.IsZero() {
			acknowledged = whenText(one.Acknowledged, now) + " by " + one.By
		}
		found.row(whenText(one.Found, now), one.Part, acknowledged, one.What)
	}
	for _, d := range a.Dropped {
		dropped.row(d.Sink, d.Reason, fleet.Count(d.Messages), fleet.Count(d.Acknowledged))
	}
	p.sections(found, dropped)
}

package main

import (
	"fmt"
	"io"
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

func printLosses(w io.Writer, a *app.LossAnswer, now time.Time) error {
	if len(a.Losses)+len(a.Dropped) == 0 {
		_, err := io.WriteString(w, "nothing was lost\n")
		return err
	}
	found, dropped := &table{}, &table{}
	for i := range a.Losses {
		if i == 0 {
			found.row("FOUND", "PART", "ACKNOWLEDGED", "WHAT")
		}
		one, acknowledged := &a.Losses[i], "NO"
		if !one.Acknowledged.IsZero() {
			acknowledged = whenText(one.Acknowledged, now) + " by " + one.By
		}
		found.row(whenText(one.Found, now), one.Part, acknowledged, one.What)
	}
	for i, d := range a.Dropped {
		if i == 0 {
			dropped.row("SINK", "REASON", "MESSAGES", "ACKNOWLEDGED")
		}
		dropped.row(d.Sink, d.Reason, fleet.Count(d.Messages), fleet.Count(d.Acknowledged))
	}
	if len(found.rows) == 0 {
		return dropped.write(w)
	}
	if err := found.write(w); err != nil || len(dropped.rows) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return dropped.write(w)
}

package main

import (
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func rulesHistoryCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:   "history [HASH]",
		Short: "which rules ran on a gateway, and what would change if they came back",
		Long: `history lists the rule sets that ran, the newest first. With a HASH it shows what differs between the set in force and that one;
with --json its files too. rollback HASH puts it in force.`,
		Example: "  cellgate rules history\n  cellgate rules history 5a1c…",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				var all app.RuleHistory
				if err := client.do(cmd.Context(), "GET", "/v1/rules/history", nil, &all); err != nil {
					return err
				}
				return c.print(all, func(w io.Writer) error { return historyTable(&all, time.Now()).write(w) })
			}
			var ran app.RanRules
			if err := client.do(cmd.Context(), "GET", "/v1/rules/history/"+url.PathEscape(args[0]), nil, &ran); err != nil {
				return err
			}
			return c.print(ran, func(w io.Writer) error {
				if ran.Diff == nil {
					_, err := io.WriteString(w, "it cannot come back: "+ran.Error+"\n")
					return err
				}
				return ran.Diff.Write(w)
			})
		},
	}
	t.flags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func historyTable(all *app.RuleHistory, now time.Time) *table {
	out := &table{}
	out.row("RULE SET", "PUT IN FORCE", "FROM", "")
	for _, s := range all.Sets {
		from, state := "files", ""
		if s.Applied {
			from = "the API"
		}
		if s.InForce {
			state = "in force"
		}
		out.row(s.Hash, whenText(s.At, now), from, state)
	}
	return out
}

package main

import (
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func rulesHistoryCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:   "history [HASH]",
		Short: "list previous rules, or compare them with those in force",
		Long: `history lists previous rule sets, newest first. With HASH it shows the difference between that set and the one in
force, with --json also its files. rollback HASH puts it in force.`,
		Example: "  cellgate rules history\n  cellgate rules history 5a1c…",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return call[app.RuleHistory]{"GET", "/v1/rules/history", nil, printHistory}.print(cmd, c, t)
			}
			return call[app.RanRules]{"GET", "/v1/rules/history/" + url.PathEscape(args[0]), nil, printRan}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	return cmd
}

func printRan(p *printer, ran *app.RanRules, _ time.Time) {
	if ran.Diff == nil {
		p.say("it cannot come back: %s\n", ran.Error)
		return
	}
	_ = ran.Diff.Write(p)
}

func printHistory(p *printer, all *app.RuleHistory, now time.Time) {
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
	out.write(p)
}

package main

import (
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

// devPartCommands returns the commands that stop and start the parts of a running `cellgate dev`.
func devPartCommands(c *cli) []*cobra.Command {
	part := func(use, short string, running bool) *cobra.Command {
		t := &target{}
		cmd := &cobra.Command{
			Use: use + " kafka|redis|centre", Short: short, Example: "  cellgate dev " + use + " kafka", Args: takes("PART"),
			ValidArgs: []string{"kafka", "redis", "centre"},
			RunE: func(cmd *cobra.Command, args []string) error {
				return c.devParts(cmd, t, "POST", "/v1/dev/parts/"+url.PathEscape(args[0]), map[string]bool{"running": running})
			},
		}
		c.callFlags(cmd, t)
		return cmd
	}
	t := &target{}
	list := &cobra.Command{
		Use: "parts", Short: "show which embedded parts run", Example: "  cellgate dev parts", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.devParts(cmd, t, "GET", "/v1/dev/parts", nil) },
	}
	c.callFlags(list, t)
	return []*cobra.Command{
		part("stop", "stop an embedded part of a running dev, to see what the gateway does without it", false),
		part("start", "start an embedded part again", true), list,
	}
}

func (c *cli) devParts(cmd *cobra.Command, t *target, method, path string, body any) error {
	return call[app.PartList]{method, path, body, func(p *printer, answer *app.PartList, _ time.Time) {
		out := &table{}
		out.row("PART", "ADDRESS", "RUNS")
		for _, part := range answer.Parts {
			out.row(part.Name, part.Address, yes(part.Running))
		}
		out.write(p)
	}}.print(cmd, c, t)
}

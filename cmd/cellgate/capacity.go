package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func capacityCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:     "capacity",
		Short:   "show the resources that a gateway uses, and their bounds",
		Example: "  cellgate capacity --json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call[app.Capacity]{"GET", "/v1/capacity", nil, printCapacity}.print(cmd, c, t)
		},
	}
	t.flags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func printCapacity(w io.Writer, s *app.Capacity, _ time.Time) error {
	t := table{}
	t.row("BOUND", "USED", "LIMIT", "SHARE")
	share := func(name string, u *app.Share, text func(int64) string) {
		limit, part := "none", "-"
		if u.Max > 0 {
			limit, part = text(u.Max), fmt.Sprintf("%.1f %%", 100*u.Ratio)
		}
		t.row(name, text(u.Used), limit, part)
	}
	share("connections", &s.Connections, countText)
	share("journal", &s.Journal, sizeText)
	t.row("open commands", countText(s.Commands), "", "")
	t.row("memory", sizeText(int64(s.HeapBytes)), "", "") //nolint:gosec // memory of this machine
	t.row("goroutines", countText(s.Goroutines), "", "")
	t.row("processors", countText(s.CPUs), "", "")
	return t.write(w)
}

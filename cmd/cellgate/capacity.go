package main

import (
	"fmt"
	"time"

	"cellgate/cmd/cellgate/human"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
)

func capacityCommand(c *cli) *cobra.Command {
	return call[app.Capacity]{"GET", "/v1/capacity", nil, printCapacity}.command(c, &cobra.Command{
		Use:     "capacity",
		Short:   "show the resources that a gateway uses, and their bounds",
		Example: "  cellgate capacity --json",
	})
}

func printCapacity(p *printer, s *app.Capacity, _ time.Time) {
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
	share("journal", &s.Journal, human.Size)
	t.row("open commands", countText(s.Commands), "", "")
	t.row("memory", human.Size(int64(s.HeapBytes)), "", "") //nolint:gosec // memory of this machine
	t.row("goroutines", countText(s.Goroutines), "", "")
	t.row("processors", countText(s.CPUs), "", "")
	t.write(p)
}

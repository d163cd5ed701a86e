package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/repair"
	"cellgate/configs"
)

func repairCommand(c *cli) *cobra.Command {
	o, yes := repair.Options{}, false
	cmd := &cobra.Command{
		Use:   "repair DIR",
		Short: "repair a data folder that prevents a start",
		Long: `repair checks the data_dir of a stopped gateway. It shows what prevents a start, the remedy, and what would be lost.
It changes nothing without --yes.

Removed files are moved to DIR/repair-{time}. Lost messages are counted as dropped in the ledger of their sink
(GET /v1/ledger). If you have a copy of the folder from before the damage, restore it instead: less is lost.

The exit code is 1 if there is a problem and nothing was repaired.`,
		Example: `  cellgate repair /var/lib/cellgate
  cellgate repair /var/lib/cellgate --yes`,
		Args: takes("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Dir = args[0]
			o.Journal = cmp.Or(o.Journal, filepath.Join(o.Dir, configs.JournalFolder))
			o.Keys = cmp.Or(o.Keys, filepath.Join(o.Dir, configs.KeysFolder))
			work := repair.Examine
			if yes {
				work = repair.Repair
			}
			r, err := work(o)
			if err != nil {
				return fmt.Errorf("repair: %w", err)
			}
			if len(r.Findings) == 0 {
				r.Backup = ""
			}
			if err := c.print(r, func(p *printer) { printRepair(p, r) }); err != nil {
				return err
			}
			if len(r.Findings) > 0 && !r.Repaired {
				return silentError{}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "carry it out")
	cmd.Flags().StringVar(&o.Journal, "journal", "", "uplink.journal.dir, if it is not DIR/journal")
	cmd.Flags().StringVar(&o.Keys, "keys", "", "auth.keys_dir, if it is not DIR/auth")
	c.jsonFlag(cmd)
	return cmd
}

func printRepair(p *printer, r *repair.Report) {
	if len(r.Findings) == 0 {
		p.say("%s: nothing in it prevents a start\n", r.Dir)
		return
	}
	will, lost := "remedy", "would be lost"
	if r.Repaired {
		will, lost = "done", "lost"
	}
	for _, f := range r.Findings {
		p.say("%s\n  problem: %s\n  %s: %s\n", f.Path, strings.ReplaceAll(f.Problem, "\n", "; "), will, f.Action)
		if f.Lost != "" {
			p.say("  %s: %s\n", lost, f.Lost)
		}
	}
	if !r.Repaired {
		p.say("\nNothing was changed. To carry it out, stop the gateway, check the disk, and run `cellgate repair %s --yes`.\n", r.Dir)
	}
}

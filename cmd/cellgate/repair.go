package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
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
		Short: "move away what in a data folder stops a gateway from starting",
		Long: `repair looks at the data_dir of a gateway that is stopped, and shows what stops it from starting, what can be done
about it, and what would be lost. It changes nothing without --yes.

What it takes away is kept in DIR/repair-{time}. Messages that are lost are counted in the ledger of their sink
(GET /v1/ledger) as dropped. A copy of the folder from before the damage loses less: put that back if there is one.

The exit code is 1 when something was found and nothing was done.`,
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
			if err := c.print(r, func(w io.Writer) error { return printRepair(w, r) }); err != nil {
				return err
			}
			if len(r.Findings) > 0 && !r.Repaired {
				return silentError{}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "carry out what is shown")
	cmd.Flags().StringVar(&o.Journal, "journal", "", "uplink.journal.dir, if it is not DIR/journal")
	cmd.Flags().StringVar(&o.Keys, "keys", "", "auth.keys_dir, if it is not DIR/auth")
	c.jsonFlag(cmd)
	return cmd
}

func printRepair(w io.Writer, r *repair.Report) error {
	if len(r.Findings) == 0 {
		_, err := fmt.Fprintf(w, "%s: nothing in it stops a gateway from starting\n", r.Dir)
		return err
	}
	var errs []error
	say := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format, args...)
		errs = append(errs, err)
	}
	will, lost := "can be done", "would be lost"
	if r.Repaired {
		will, lost = "done", "lost"
	}
	for _, f := range r.Findings {
		say("%s\n  problem: %s\n  %s: %s\n", f.Path, strings.ReplaceAll(f.Problem, "\n", "; "), will, f.Action)
		if f.Lost != "" {
			say("  %s: %s\n", lost, f.Lost)
		}
	}
	if !r.Repaired {
		say("\nNothing was changed. `cellgate repair %s --yes` does it; stop the gateway first, and check the disk.\n", r.Dir)
	}
	return errors.Join(errs...)
}

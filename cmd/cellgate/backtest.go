package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/configs"
	"cellgate/rules/state"
	"cellgate/rules/workbench"
)

// backtestFlags are the flags of `rules backtest`.
type backtestFlags struct {
	ruleFlags
	journal, against string
	from             uint64
}

func rulesBacktestCommand(c *cli) *cobra.Command {
	f := &backtestFlags{}
	cmd := &cobra.Command{
		Use:   "backtest [PATH]",
		Short: "run rules over a journal and count what they would do",
		Long: `backtest evaluates every message of a journal in order, as the gateway would, and delivers nothing.
--against evaluates another rule set too, and shows both results.`,
		Example: "  cellgate rules backtest configs/rules --journal data/journal --against data/configs/rules",
		Args:    mayTake("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			paths, err := f.paths(args)
			if err != nil {
				return err
			}
			if f.journal == "" {
				cfg, _, err := f.load()
				if err != nil {
					return fmt.Errorf("journal: no --journal given, and %w", err)
				}
				f.journal = string(cfg.Uplink.Journal.Dir)
			}
			return c.backtest(f, paths[0])
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.journal, "journal", "", "journal directory (default that of --data or --config)")
	cmd.Flags().StringVar(&f.against, "against", "", "another rule set to compare with")
	cmd.Flags().Uint64Var(&f.from, "from", 1, "first sequence")
	c.jsonFlag(cmd)
	return cmd
}

// backtestReport is what --json prints.
type backtestReport struct {
	Journal string             `json:"journal"`
	Records uint64             `json:"records"`
	First   uint64             `json:"first"`
	Last    uint64             `json:"last"`
	Trials  []*workbench.Trial `json:"rule_sets"`
}

func (c *cli) backtest(f *backtestFlags, path string) error {
	bounds := state.StateOptions{MaxVINs: configs.Default().Rules.MaxVINs, MaxVINBytes: configs.MaxVINBytes}
	report := backtestReport{Journal: f.journal}
	paths := []string{path}
	if f.against != "" {
		paths = append(paths, f.against)
	}
	o := f.options(c).Options
	o.Webhooks = nil // the endpoints of rules under test need not be configured
	for _, p := range paths {
		t, err := workbench.NewTrial(p, o, bounds)
		if err != nil {
			return err
		}
		report.Trials = append(report.Trials, t)
	}
	err := journal.Dump(f.journal, f.from, func(rec *message.Record) error {
		for _, t := range report.Trials {
			t.Add(rec)
		}
		if rec.Kind != message.KindPublish {
			return nil
		}
		if report.Records++; report.First == 0 {
			report.First = rec.Seq
		}
		report.Last = rec.Seq
		return nil
	})
	if err != nil {
		return journalError(f.journal, err)
	}
	return c.print(report, func(p *printer) { printBacktest(p, &report) })
}

// printFindings prints what a reader of the table must know about a rule.
func printFindings(p *printer, n *workbench.RuleCount) {
	if n.Example != "" {
		p.say("  %s, first error: %s\n", n.Rule, n.Example)
	}
	if n.Exceeded > 0 {
		p.say("  %s, more errors than its limit allows: at record %d\n", n.Rule, n.Exceeded)
	}
	if n.Held {
		p.say("  %s, held by its limit at the end of the journal: %d matches were counted and not sent\n", n.Rule, n.Shadow)
	}
}

func printBacktest(p *printer, r *backtestReport) {
	p.say("%d messages of %s, records %d to %d\n", r.Records, r.Journal, r.First, r.Last)
	for _, t := range r.Trials {
		p.say("\n%s\n", t.Path)
		out := table{}
		out.row("  RULE", "MODE", "MATCHED", "ERRORS", "PER TARGET")
		for _, n := range t.Rules {
			per := strings.Trim(strings.ReplaceAll(fmt.Sprint(n.Targets), " ", ", "), "[]")
			out.row("  "+n.Rule, n.Mode, fmt.Sprint(n.Matched+n.Shadow), fmt.Sprint(n.Errors), per)
		}
		out.write(p)
		for _, n := range t.Rules {
			printFindings(p, &n)
		}
	}
}

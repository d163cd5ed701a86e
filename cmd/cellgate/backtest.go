package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/broker/journal"
	"cellgate/broker/message"
	"cellgate/configs"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
	"cellgate/rules/state"
)

// backtestFlags are what `rules backtest` is told.
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
		Long: `backtest evaluates every message of a journal, in order, as the gateway would, and delivers nothing.
With --against it does the same with another rule set and shows both.`,
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

// trial is one rule set in a backtest.
type trial struct {
	set     *lang.Set
	state   *state.State
	worker  *engine.Worker
	scratch []engine.Decision
	Path    string      `json:"path"`
	Hash    string      `json:"hash"`
	Rules   []ruleCount `json:"rules"`
}

// ruleCount is what one rule did.
type ruleCount struct {
	Rule    string   `json:"rule"`
	Mode    string   `json:"mode"`
	Matched uint64   `json:"matched"`
	Shadow  uint64   `json:"shadow,omitempty"`
	Errors  uint64   `json:"errors"`
	Targets []uint64 `json:"messages_per_target"`
	Example string   `json:"first_error,omitempty"`
}

func (r *ruleCount) failed(seq uint64, err string) {
	if r.Errors++; r.Example == "" {
		r.Example = fmt.Sprintf("record %d: %s", seq, err)
	}
}

func newTrial(path, cell string) (*trial, error) {
	src, err := lang.Load(path)
	if err != nil {
		return nil, err
	}
	set, found := lang.Compile(src, lang.Options{Cell: cell})
	if err := found.Err(); err != nil {
		return nil, err
	}
	state := state.NewState(state.StateOptions{MaxVINs: configs.Default().Rules.MaxVINs, MaxVINBytes: configs.MaxVINBytes})
	t := &trial{set: set, state: state, worker: engine.NewEngine(set, state).NewWorker(), Path: filepath.ToSlash(path), Hash: set.Hash()}
	for _, r := range set.Rules() {
		t.Rules = append(t.Rules, ruleCount{Rule: r.ID, Mode: r.Mode, Targets: make([]uint64, len(r.Targets))})
	}
	return t, nil
}

// stepClock takes a step of the gateway's clock into account.
func (t *trial) stepClock(rec *message.Record) {
	if step, err := rec.ClockStep(); err == nil {
		t.state.StepClock(step)
	}
}

// eval counts what the rules decide about one record.
func (t *trial) eval(rec *message.Record) {
	t.scratch = t.worker.Eval(rec, t.scratch[:0])
	last := -1
	for i := range t.scratch {
		d := &t.scratch[i]
		r := &t.Rules[d.Rule]
		switch {
		case d.Target == engine.TargetUndecoded:
			for _, rule := range d.Undecoded {
				t.Rules[rule].failed(rec.Seq, d.Err)
			}
			continue
		case d.Err != "":
			r.failed(rec.Seq, d.Err)
			continue
		case d.Shadow:
			r.Shadow++
			continue
		case int(d.Rule) != last:
			last = int(d.Rule)
			r.Matched++
		}
		if int(d.Target) < len(r.Targets) {
			r.Targets[d.Target]++
		}
	}
}

// backtestReport is what --json prints.
type backtestReport struct {
	Journal string   `json:"journal"`
	Records uint64   `json:"records"`
	First   uint64   `json:"first"`
	Last    uint64   `json:"last"`
	Trials  []*trial `json:"rule_sets"`
}

func (c *cli) backtest(f *backtestFlags, path string) error {
	report := backtestReport{Journal: f.journal}
	paths := []string{path}
	if f.against != "" {
		paths = append(paths, f.against)
	}
	for _, p := range paths {
		t, err := newTrial(p, f.options(c).Cell)
		if err != nil {
			return err
		}
		report.Trials = append(report.Trials, t)
	}
	err := journal.Dump(f.journal, f.from, func(rec *message.Record) error {
		if rec.Kind == message.KindClockStep {
			for _, t := range report.Trials {
				t.stepClock(rec)
			}
		}
		if rec.Kind != message.KindPublish {
			return nil
		}
		if report.Records++; report.First == 0 {
			report.First = rec.Seq
		}
		report.Last = rec.Seq
		for _, t := range report.Trials {
			t.eval(rec)
		}
		return nil
	})
	if err != nil {
		return journalError(f.journal, err)
	}
	return c.print(report, func(w io.Writer) error { return printBacktest(w, &report) })
}

func printBacktest(w io.Writer, r *backtestReport) error {
	if _, err := fmt.Fprintf(w, "%d messages of %s, records %d to %d\n", r.Records, r.Journal, r.First, r.Last); err != nil {
		return err
	}
	for _, t := range r.Trials {
		if _, err := fmt.Fprintf(w, "\n%s\n", t.Path); err != nil {
			return err
		}
		out := table{}
		out.row("  RULE", "MODE", "MATCHED", "ERRORS", "PER TARGET")
		for _, n := range t.Rules {
			per := strings.Trim(strings.ReplaceAll(fmt.Sprint(n.Targets), " ", ", "), "[]")
			matched := n.Matched
			if n.Shadow > 0 {
				matched = n.Shadow
			}
			out.row("  "+n.Rule, n.Mode, fmt.Sprint(matched), fmt.Sprint(n.Errors), per)
		}
		if err := out.write(w); err != nil {
			return err
		}
		for _, n := range t.Rules {
			if n.Example == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "  %s, first error: %s\n", n.Rule, n.Example); err != nil {
				return err
			}
		}
	}
	return nil
}

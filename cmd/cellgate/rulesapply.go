package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
	"cellgate/rules/workbench"
)

func rulesApplyCommand(c *cli) *cobra.Command {
	t := &target{}
	var body app.RuleFiles
	cmd := &cobra.Command{
		Use:   "apply [PATH...]",
		Short: "put rules in force on a running gateway",
		Long: `apply sends the rules and tests in the paths to a running gateway. The gateway checks and tests them, and applies all
of them or none. They replace its own rule files, also after a restart, until these files change or reload is called.
rollback returns to the previous rules.

Without PATH it does the same as reload. A missing or empty rules folder never replaces the rules in force. To run
without rules, write a file with ` + "`rules: []`" + `, or use --allow-empty.`,
		Example: "  cellgate rules apply configs/rules\n  cellgate rules apply --api https://gw-1:8080 configs/rules\n  cellgate rules apply --allow-empty",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.changeRules(cmd.Context(), t, "POST", "/v1/rules/reload", map[string]bool{"allow_empty": body.AllowEmpty, "strict": body.Strict})
			}
			files, err := workbench.Files(args)
			if err != nil {
				return err
			}
			body.Files = files
			return c.changeRules(cmd.Context(), t, "PUT", "/v1/rules", &body)
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().BoolVar(&body.Strict, "strict", false, "refuse rules that have warnings")
	cmd.Flags().BoolVar(&body.AllowEmpty, "allow-empty", false, "allow a set without rules: every message is then filtered")
	return cmd
}

func rulesReloadCommand(c *cli) *cobra.Command {
	return c.rulesChange("/v1/rules/reload", func([]string) any { return nil }, &cobra.Command{
		Use:   "reload",
		Short: "make a running gateway read its rule files",
		Long: `reload makes a running gateway read its rules folder and apply all of its rules or none. Unless rules.watch is off,
the gateway also does this by itself when files change. reload replaces rules that apply or rollback have put in
force, and prints errors at once.`,
		Example: "  cellgate rules reload",
		Args:    takes(),
	})
}

func rulesRollbackCommand(c *cli) *cobra.Command {
	body := func(args []string) any {
		if len(args) == 0 {
			return nil
		}
		return map[string]string{"hash": args[0]}
	}
	return c.rulesChange("/v1/rules/rollback", body, &cobra.Command{
		Use:     "rollback [HASH]",
		Short:   "return to the previous rules",
		Long:    "rollback puts the previous rule set in force, or that of a HASH from history, until the rule files change or reload is called.\nA second rollback returns to the first set.",
		Example: "  cellgate rules rollback",
		Args:    cobra.MaximumNArgs(1),
	})
}

func rulesLiftCommand(c *cli) *cobra.Command {
	body := func(args []string) any { return map[string]string{"rule": args[0]} }
	return c.rulesChange("/v1/rules/lift", body, &cobra.Command{
		Use:   "lift RULE",
		Short: "let a rule send again after its limits stopped it",
		Long: `lift makes a rule send again after its limits have stopped it because of too many errors. Errors are then counted
from 0. A corrected rule needs no lift: a change of the rule, or of the top of its file, is enough.`,
		Example: "  cellgate rules lift battery-watch",
		Args:    takes("RULE"),
	})
}

// rulesChange completes a command that changes the rules in force with one call.
func (c *cli) rulesChange(path string, body func(args []string) any, cmd *cobra.Command) *cobra.Command {
	t := &target{}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.changeRules(cmd.Context(), t, "POST", path, body(args))
	}
	c.callFlags(cmd, t)
	return cmd
}

func rulesStatusCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "show which rules are in force, and errors of the rule files",
		Example: "  cellgate rules status\n  cellgate rules status --json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changeRules(cmd.Context(), t, "GET", "/v1/rules", nil)
		},
	}
	c.callFlags(cmd, t)
	return cmd
}

// changeRules makes a call that answers with the rules in force, and prints them.
func (c *cli) changeRules(ctx context.Context, t *target, method, path string, body any) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	var s app.RuleSet
	if err := client.do(ctx, method, path, body, &s); err != nil {
		return err
	}
	return c.print(s, func(p *printer) {
		if printRulesState(p, &s); method == "GET" {
			ruleTable(&s).write(p)
		}
	})
}

// printRulesState prints the rules in force and their problems.
func printRulesState(p *printer, s *app.RuleSet) {
	_ = s.Warnings.Write(p)
	from := "from " + s.Path
	switch {
	case s.Applied:
		from = "applied over the API, in place of " + s.Path
	case s.Broken:
		from = "not from " + s.Path
	}
	p.say("%s in force, set %.12s, since %s, %s\n", many(len(s.Rules), "rule", "rules"), s.Hash, whenText(s.Since, time.Now()), from)
	if s.Error != "" && !s.Applied {
		p.say("the files are not in force: %s\n", s.Error)
	}
	for i := range s.Held {
		h := &s.Held[i]
		p.say("rule %s sends nothing since %s: %d of %d messages were errors, its limit is %s\n",
			h.Rule, whenText(h.Since, time.Now()), h.Errors, h.Messages, h.Limit)
	}
}

func ruleTable(s *app.RuleSet) *table {
	out := &table{}
	out.row("RULE", "MODE", "FROM", "TO")
	for i := range s.Rules {
		r := &s.Rules[i]
		var to []string
		for _, x := range r.Targets {
			to = append(to, string(x.Sink)+" "+x.Name)
		}
		mode := r.Mode
		if slices.ContainsFunc(s.Held, func(h app.HeldRule) bool { return h.Rule == r.ID }) {
			mode = "shadow (limits)"
		}
		out.row(r.ID, mode, strings.Join(r.From, ", "), strings.Join(to, ", "))
	}
	return out
}

// explainLive lets a running gateway explain a message.
func (c *cli) explainLive(ctx context.Context, f *explainFlags, args []string) error {
	if len(args) > 0 || f.journal != "" {
		return usagef("explain: a running gateway explains by the rules in force: give neither PATH nor --journal with --live or --api")
	}
	client, err := f.client()
	if err != nil {
		return err
	}
	body := map[string]any{"vin": f.vin}
	if f.payload != "" || f.topic != "" {
		rec, err := f.record(c.in)
		if err != nil {
			return err
		}
		body["topic"], body["received_at"] = rec.Topic, rec.Time()
		if json.Valid(rec.Payload) {
			body["payload"] = json.RawMessage(rec.Payload)
		} else {
			body["payload_base64"] = rec.Payload
		}
	}
	var x workbench.Explanation
	if err := client.do(ctx, "POST", "/v1/rules/explain", body, &x); err != nil {
		return err
	}
	return c.print(x, func(p *printer) { _ = x.Write(p) })
}

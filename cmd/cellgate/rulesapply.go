package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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
		Long: `apply sends the rules and tests of the paths to a running gateway, which checks and tests them and puts them
in force, whole or not at all. They are in force in place of the gateway's own rule files, also after a restart,
until these change or reload is called: the last call wins. rollback goes back to what ran before.

Without a PATH it is reload: the gateway's own rule files. Rules that are missing, or all gone, never take the
place of rules that run. When none are wanted, put ` + "`rules: []`" + ` into a file, or say --allow-empty.`,
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
	t.flags(cmd)
	cmd.Flags().BoolVar(&body.Strict, "strict", false, "refuse rules that have warnings")
	cmd.Flags().BoolVar(&body.AllowEmpty, "allow-empty", false, "allow a set without rules: every message is then filtered")
	c.jsonFlag(cmd)
	return cmd
}

func rulesReloadCommand(c *cli) *cobra.Command {
	return c.rulesChange("/v1/rules/reload", func([]string) any { return nil }, &cobra.Command{
		Use:   "reload",
		Short: "put the rule files of a running gateway in force",
		Long: `reload has a running gateway read its rules folder and put the rules in force, whole or not at all. The
gateway does so by itself when files change, unless rules.watch is off; reload also ends what apply and
rollback have put in force, and says at once what is wrong.`,
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
		Short:   "go back to the rules that ran before",
		Long:    "rollback puts the rule set in force that ran before, or that of a HASH from history, whatever the files say, until they change or reload is called. Twice goes back and forth.",
		Example: "  cellgate rules rollback",
		Args:    cobra.MaximumNArgs(1),
	})
}

func rulesLiftCommand(c *cli) *cobra.Command {
	body := func(args []string) any { return map[string]string{"rule": args[0]} }
	return c.rulesChange("/v1/rules/lift", body, &cobra.Command{
		Use:   "lift RULE",
		Short: "let a rule send again that its limits hold",
		Long: `lift has a rule send again that sends nothing because too many of its messages were errors (limits). Errors count
anew from then on. A rule that is mended needs no lift: a change of it, or of what stands at the top of its file, is enough.`,
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
	t.flags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func rulesStatusCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "which rules are in force, since when, and why not the files",
		Example: "  cellgate rules status\n  cellgate rules status --json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changeRules(cmd.Context(), t, "GET", "/v1/rules", nil)
		},
	}
	t.flags(cmd)
	c.jsonFlag(cmd)
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
	return c.print(s, func(w io.Writer) error {
		if err := printRulesState(w, &s); err != nil || method != "GET" {
			return err
		}
		out := ruleTable(&s)
		return out.write(w)
	})
}

// printRulesState prints the rules in force and their problems.
func printRulesState(w io.Writer, s *app.RuleSet) error {
	if err := s.Warnings.Write(w); err != nil {
		return err
	}
	from := "from " + s.Path
	switch {
	case s.Applied:
		from = "applied over the API, in place of " + s.Path
	case s.Broken:
		from = "not from " + s.Path
	}
	_, err := fmt.Fprintf(w, "%s in force, set %.12s, since %s, %s\n", many(len(s.Rules), "rule", "rules"), s.Hash, whenText(s.Since, time.Now()), from)
	if err == nil && s.Error != "" && !s.Applied {
		_, err = fmt.Fprintf(w, "the files are not in force: %s\n", s.Error)
	}
	for i := range s.Held {
		h := &s.Held[i]
		if err == nil {
			_, err = fmt.Fprintf(w, "rule %s sends nothing since %s: %d of %d messages were errors, its limit is %s\n",
				h.Rule, whenText(h.Since, time.Now()), h.Errors, h.Messages, h.Limit)
		}
	}
	return err
}

func ruleTable(s *app.RuleSet) table {
	out := table{}
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
	return c.print(x, x.Write)
}

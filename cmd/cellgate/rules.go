package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/cmd/cellgate/app"
	"cellgate/configs"
	"cellgate/rules/workbench"
)

func rulesCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "write, check, test, apply, explain and compare rules",
		Long: `rules has the tools for analysts. PATH is a folder or a file. Without PATH, the tools use the rules of the gateway
that --data or --config names.`,
		Example: "  cellgate rules check configs/rules\n  cellgate rules test configs/rules",
	}
	cmd.AddCommand(
		rulesToolCommand(c, "check", "check rules; errors have file, line and column", workbench.Check),
		rulesToolCommand(c, "test", "run the rules' tests: the *_test.yaml files next to them", workbench.Test),
		rulesApplyCommand(c), rulesReloadCommand(c), rulesRollbackCommand(c), rulesHistoryCommand(c), rulesLiftCommand(c), rulesStatusCommand(c), rulesNewCommand(c), rulesExplainCommand(c), rulesDiffCommand(c), rulesBacktestCommand(c), rulesFormatCommand(c), rulesSchemaCommand(c),
	)
	return cmd
}

// ruleFlags are common to the rule tools.
type ruleFlags struct {
	target
	cell string
}

func (f *ruleFlags) add(cmd *cobra.Command) {
	f.localFlags(cmd)
	cmd.Flags().StringVar(&f.cell, "cell", "", cellUsage)
}

const cellUsage = "cell id for ${cell} (default that of --data or --config, else cell-test)"

// testCell is the cell ID when no gateway is named.
const testCell = "cell-test"

// paths returns the arguments, or without any the gateway's rules.
func (f *ruleFlags) paths(args []string) ([]string, error) {
	if len(args) > 0 {
		return args, nil
	}
	cfg, _, err := f.load()
	if err != nil {
		return nil, fmt.Errorf("rules: no PATH given, and %w", err)
	}
	return []string{string(cfg.Rules.Path)}, nil
}

func (f *ruleFlags) options(c *cli) workbench.ToolOptions {
	none := configs.Default()
	none.Cell.ID = testCell
	o := workbench.ToolOptions{JSON: c.json, Options: app.RuleOptions(none)}
	o.Webhooks = nil
	if cfg, _, err := f.load(); err == nil {
		o.Options = app.RuleOptions(cfg)
	}
	if f.cell != "" {
		o.Cell = f.cell
	}
	return o
}

// answer turns the ok of a tool into an exit code.
func answer(ok bool, err error) error {
	if err == nil && !ok {
		return silentError{}
	}
	return err
}

func rulesToolCommand(c *cli, name, short string, tool func(io.Writer, []string, workbench.ToolOptions) (bool, error)) *cobra.Command {
	f := &ruleFlags{}
	strict := false
	cmd := &cobra.Command{
		Use:     name + " [PATH...]",
		Short:   short,
		Example: "  cellgate rules " + name + " configs/rules",
		RunE: func(_ *cobra.Command, args []string) error {
			paths, err := f.paths(args)
			if err != nil {
				return err
			}
			o := f.options(c)
			o.Strict = strict
			return answer(tool(c.out, paths, o))
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings, too")
	c.jsonFlag(cmd)
	return cmd
}

// explainFlags are the flags of `rules explain`.
type explainFlags struct {
	ruleFlags
	topic, vin, class, payload, at, journal string
	seq                                     uint64
	live                                    bool
}

func rulesExplainCommand(c *cli) *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain [PATH...]",
		Short: "show what the rules do with one message, and why",
		Long: `explain shows which rules consider a message, which match, and why the others do not. Give the message by topic and
payload, or take it from a journal. The vehicle has no history: operators such as threshold have seen no message
before it.

--live, or --api URL, asks a running gateway instead: its rules in force, and the current operator state of the
vehicle. Without --payload it uses the vehicle's last message.`,
		Example: `  cellgate rules explain configs/rules --vin LTEST000000000001 --payload '{"soc": 9}'
  cellgate rules explain --journal data/journal --seq 1234
  cellgate rules explain --live --vin LTEST000000000001
  cellgate rules explain --api https://gw-1:8080 --vin LTEST000000000001 --payload '{"soc": 9}'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.live || f.api != "" {
				return c.explainLive(cmd.Context(), f, args)
			}
			paths, err := f.paths(args)
			if err != nil {
				return err
			}
			rec, err := f.record(c.in)
			if err != nil {
				return err
			}
			return answer(workbench.ExplainPaths(c.out, paths, rec, f.options(c)))
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.cell, "cell", "", cellUsage)
	cmd.Flags().BoolVar(&f.live, "live", false, "ask the running gateway that --data or --config names")
	cmd.Flags().StringVar(&f.topic, "topic", "", "topic of the message (default v1/{vin}/up/{class})")
	cmd.Flags().StringVar(&f.vin, "vin", "LTEST000000000001", "the vehicle")
	cmd.Flags().StringVar(&f.class, "class", "telemetry", "class of the message")
	cmd.Flags().StringVar(&f.payload, "payload", "", "payload; @FILE reads a file, - reads stdin")
	cmd.Flags().StringVar(&f.at, "at", "", "time of receipt (RFC 3339; default now)")
	cmd.Flags().StringVar(&f.journal, "journal", "", "take the message from this journal directory")
	cmd.Flags().Uint64Var(&f.seq, "seq", 0, "sequence of the message in the journal")
	c.jsonFlag(cmd)
	return cmd
}

// record returns the message to explain.
func (f *explainFlags) record(in io.Reader) (*message.Record, error) {
	if f.journal != "" {
		return recordAt(f.journal, f.seq)
	}
	rec := &message.Record{Kind: message.KindPublish, Seq: 1, QoS: 1, Client: f.vin, Topic: f.topic, ReceivedAt: time.Now().UnixMilli()}
	if rec.Topic == "" {
		rec.Topic = "v1/" + f.vin + "/up/" + f.class
	}
	if err := message.ValidTopic(rec.Topic); err != nil {
		return nil, usagef("topic: %q: %w", rec.Topic, err)
	}
	if f.at != "" {
		at, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			return nil, usagef("at: %q is not a time such as 2026-01-31T12:00:00Z", f.at)
		}
		rec.ReceivedAt = at.UnixMilli()
	}
	payload, err := readPayload(f.payload, in)
	rec.Payload = payload
	return rec, err
}

// maxPayload bounds a payload in bytes: MQTT's own limit.
const maxPayload = 256 << 20

func readPayload(text string, in io.Reader) ([]byte, error) {
	switch {
	case text == "-":
		return io.ReadAll(io.LimitReader(in, maxPayload))
	case len(text) > 1 && text[0] == '@':
		b, err := os.ReadFile(text[1:])
		if err != nil {
			return nil, fmt.Errorf("payload: %w", fileError(text[1:], err))
		}
		return b, nil
	}
	return []byte(text), nil
}

// recordAt reads one record of a journal.
func recordAt(dir string, seq uint64) (*message.Record, error) {
	if seq == 0 {
		return nil, usagef("seq: --journal needs --seq, from 1; `cellgate journal dump` shows the numbers")
	}
	var found *message.Record
	err := journal.Dump(dir, seq, func(rec *message.Record) error {
		if rec.Seq == seq {
			copied := rec.Clone()
			found = &copied
		}
		return errEnough
	})
	if found != nil {
		return found, nil
	}
	if err != nil && !errors.Is(err, errEnough) {
		return nil, journalError(dir, err)
	}
	return nil, fmt.Errorf("journal: %s has no record %d; it may have been consumed already", dir, seq)
}

func rulesDiffCommand(c *cli) *cobra.Command {
	f := &ruleFlags{}
	cmd := &cobra.Command{
		Use:     "diff OLD NEW",
		Short:   "compare two rule sets by what they do",
		Long:    "diff compares two rule sets rule by rule. It ignores comments, order and layout, and shows which operators would lose their state.",
		Example: "  cellgate rules diff data/configs/rules configs/rules",
		Args:    takes("OLD", "NEW"),
		RunE: func(_ *cobra.Command, args []string) error {
			_, ok, err := workbench.DiffPaths(c.out, args[0], args[1], f.options(c))
			return answer(ok, err)
		},
	}
	f.add(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func rulesFormatCommand(c *cli) *cobra.Command {
	f := &ruleFlags{}
	check := false
	cmd := &cobra.Command{
		Use:     "fmt [PATH...]",
		Short:   "format rule files",
		Long:    "fmt formats the files and prints the names of those that it changed. With --check it changes nothing, and the exit code is 1 if a file needs\nformatting.",
		Example: "  cellgate rules fmt configs/rules",
		RunE: func(_ *cobra.Command, args []string) error {
			paths, err := f.paths(args)
			if err != nil {
				return err
			}
			return answer(workbench.FormatPaths(c.out, paths, check, f.options(c)))
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "change nothing")
	c.jsonFlag(cmd)
	return cmd
}

func rulesSchemaCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "print the JSON Schema of rule files, for editors",
		Example: "  cellgate rules schema > rules.schema.json",
		Args:    takes(),
		RunE:    func(*cobra.Command, []string) error { return workbench.JSONSchema(c.out, app.Targets()) },
	}
}

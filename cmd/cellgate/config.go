package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/preflight"
	"cellgate/configs"
)

func configCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "check or print a configuration",
		Example: "  cellgate config check configs/cell.yaml",
	}
	cmd.AddCommand(configCheckCommand(c), configPrintCommand(c))
	return cmd
}

func configCheckCommand(c *cli) *cobra.Command {
	deep := false
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "validate a configuration",
		Long: `check validates a configuration and reports every problem with file, line and column. It does not open the files
and addresses in it. --deep also checks certificates, Kafka with its topics and permissions, Redis, rules, the space
and speed of the disk, descriptors, and this machine's clock: run it on the gateway's machine as the gateway's user.
It changes nothing. The exit code is 1 if there is an error; warnings do not count.`,
		Example: `  cellgate config check configs/cell.yaml
  cellgate config check --deep configs/cell.yaml --json`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(args[0])
			if err != nil {
				return c.invalid(args[0], err)
			}
			if deep {
				return c.checkDeep(cmd.Context(), cfg)
			}
			result := map[string]any{"valid": true, "file": args[0], "cell": cfg.Cell.ID, "warnings": append(configs.Problems{}, cfg.Warnings...)}
			return c.print(result, func(p *printer) {
				for _, warning := range cfg.Warnings {
					p.say("warning: %v\n", warning)
				}
				p.say("%s: valid, cell %s\n", args[0], cfg.Cell.ID)
			})
		},
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "also check what the configuration refers to")
	c.jsonFlag(cmd)
	return cmd
}

// checkDeep prints the findings of preflight.
func (c *cli) checkDeep(ctx context.Context, cfg *configs.Config) error {
	found := preflight.Run(ctx, cfg)
	bad := preflight.Worst(found) == preflight.Bad
	result := map[string]any{"valid": !bad, "file": cfg.File, "cell": cfg.Cell.ID, "warnings": append(configs.Problems{}, cfg.Warnings...), "findings": found}
	err := c.print(result, func(p *printer) { printChecks(p, found) })
	if err == nil && bad {
		return silentError{}
	}
	return err
}

func printChecks(p *printer, found []preflight.Finding) {
	for _, f := range found {
		mark := map[string]string{preflight.Good: "ok", preflight.Warning: "warn", preflight.Bad: "FAIL"}[f.Level]
		p.say("%s%s %s: %s: %s\n", p.paint(mark, false), strings.Repeat(" ", 4-len(mark)), f.Check, f.Where, f.What)
		if f.Do != "" {
			p.say("       %s\n", f.Do)
		}
	}
}

func configPrintCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "print FILE",
		Short:   "print a configuration with its defaults filled in and secrets masked",
		Example: "  cellgate config print configs/cell.yaml",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(args[0])
			if err != nil {
				return err
			}
			return configs.Print(c.out, cfg)
		},
	}
}

// invalid reports a configuration's problems: as JSON on stdout with --json, else by the error itself.
func (c *cli) invalid(file string, err error) error {
	var problems configs.Problems
	if !c.json || !errors.As(err, &problems) {
		return err
	}
	if err := c.print(map[string]any{"valid": false, "file": file, "problems": problems}, nil); err != nil {
		return err
	}
	return silentError{}
}

// loadConfig reads a configuration. The error for an unreadable file names it once.
func loadConfig(file string) (*configs.Config, error) {
	cfg, err := configs.Load(file)
	var path *fs.PathError
	if errors.As(err, &path) {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "; name a file such as configs/cell.yaml"
		}
		return nil, fmt.Errorf("config: %w%s", fileError(file, err), hint)
	}
	return cfg, err
}

// fileError returns an error that says why a file cannot be used and names it once.
func fileError(file string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s: %w", file, err)
}

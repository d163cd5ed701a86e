package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

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
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "validate a configuration",
		Long: `check validates a configuration and names every problem with file, line and column. It opens
nothing that the configuration points to.`,
		Example: "  cellgate config check configs/cell.yaml",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(args[0])
			if err != nil {
				return c.invalid(args[0], err)
			}
			result := map[string]any{"valid": true, "file": args[0], "cell": cfg.Cell.ID, "warnings": append(configs.Problems{}, cfg.Warnings...)}
			return c.print(result, func(w io.Writer) error {
				for _, warning := range cfg.Warnings {
					fmt.Fprintf(w, "warning: %v\n", warning) //nolint:errcheck // the last write tells
				}
				_, err := fmt.Fprintf(w, "%s: valid, cell %s\n", args[0], cfg.Cell.ID)
				return err
			})
		},
	}
	c.jsonFlag(cmd)
	return cmd
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

// loadConfig reads a configuration. A file that cannot be read is named once.
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

// fileError says of a file why it cannot be used, and names it once.
func fileError(file string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s: %w", file, err)
}

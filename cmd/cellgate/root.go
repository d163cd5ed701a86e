package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// cli is common to all commands: input, output, and how results are printed.
type cli struct {
	in       io.Reader
	out, err io.Writer
	json     bool
	hangups  <-chan os.Signal // SIGHUP, for the commands that serve
}

func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "cellgate",
		Short: "MQTT gateway of one cell of a connected-vehicle platform",
		Long: `cellgate is the MQTT gateway of one cell of a connected-vehicle platform. It keeps the vehicles' connections,
journals messages before it acknowledges them, routes them by YAML rules to Kafka and Redis, delivers commands,
and forwards selected data to the central unit.

Start with:  cellgate dev`,
		Example: `  cellgate dev
  cellgate run --config configs/cell.yaml
  cellgate token issue --vin LTEST000000000001`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.AddCommand(
		devCommand(c), runCommand(c), configCommand(c), rulesCommand(c), tokenCommand(c), commandCommand(c), fleetCommand(c),
		journalCommand(c), repairCommand(c), drainCommand(c), gatewaysCommand(c), lossesCommand(c), vehiclesCommand(c), statusCommand(c), syncCommand(c), traceCommand(c), eventsCommand(c), sessionsCommand(c), capacityCommand(c), topicsCommand(c),
		versionCommand(c),
	)
	complete(root)
	asUsage(root)
	return root
}

// jsonFlag adds --json.
func (c *cli) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print the result as JSON")
}

// callFlags adds the flags of a command that calls a gateway: which one, and --json.
func (c *cli) callFlags(cmd *cobra.Command, t *target) {
	t.flags(cmd)
	c.jsonFlag(cmd)
}

// print writes a result: as JSON with --json, else with text.
func (c *cli) print(v any, text func(p *printer)) error {
	if !c.json {
		p := newPrinter(c.out)
		text(p)
		if err := p.Flush(); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		return p.err
	}
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/rules/workbench"
)

func rulesNewCommand(c *cli) *cobra.Command {
	f := &ruleFlags{}
	s := &workbench.Sketch{}
	cmd := &cobra.Command{
		Use:   "new [FOLDER]",
		Short: "write a rule and its test",
		Long: `new writes a rule and its test into two new files; it never overwrites a file. It asks for everything that no flag
gives. If the rule has an error or its test fails, it writes nothing.`,
		Example: `  cellgate rules new configs/rules --id hot-battery --when 'payload.temp > 60' --payload '{"temp": 71}' --topic vehicle.alerts
  cellgate rules new configs/rules`,
		Args: mayTake("FOLDER"),
		RunE: func(_ *cobra.Command, args []string) error {
			paths, err := f.paths(args)
			if err != nil {
				return err
			}
			ask := asker{in: bufio.NewScanner(c.in), out: c.err}
			ask.need("id", "short name of the rule", "", &s.ID)
			ask.need("class", "class of the messages, what follows up/ in their topic", "telemetry", &s.Class)
			ask.need("when", "condition, for example payload.temp > 60 (empty: every message)", "", &s.When)
			ask.need("payload", "a message that the rule is for, as JSON", "{}", &s.Payload)
			ask.need("topic", "Kafka topic", "vehicle.alerts", &s.Topic)
			names, err := workbench.New(paths[0], s, f.options(c))
			if err != nil {
				return err
			}
			return c.print(map[string][]string{"files": names}, func(p *printer) {
				p.say("%s\ncellgate rules test %s\n", strings.Join(names, "\n"), paths[0])
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&s.ID, "id", "", "id of the rule, and name of the files")
	cmd.Flags().StringVar(&s.Owner, "owner", "", "who is responsible for the rule")
	cmd.Flags().StringVar(&s.Description, "description", "", "purpose of the rule")
	cmd.Flags().StringVar(&s.Class, "class", "", "class of the messages (default telemetry)")
	cmd.Flags().StringVar(&s.When, "when", "", "condition")
	cmd.Flags().StringVar(&s.Payload, "payload", "", "a message that the rule must match")
	cmd.Flags().StringVar(&s.Topic, "topic", "", "Kafka topic (default vehicle.alerts)")
	c.jsonFlag(cmd)
	return cmd
}

// asker asks the user for values not set by flags.
type asker struct {
	in  *bufio.Scanner
	out io.Writer
}

// need asks for a value. An empty answer, or none, selects the default.
func (a *asker) need(name, what, fallback string, to *string) {
	if *to != "" {
		return
	}
	text := what
	if fallback != "" {
		text += " [" + fallback + "]"
	}
	_, _ = fmt.Fprintf(a.out, "%s: %s? ", name, text)
	if a.in.Scan() {
		*to = strings.TrimSpace(a.in.Text())
	} else {
		_, _ = fmt.Fprintln(a.out)
	}
	if *to == "" {
		*to = fallback
	}
}

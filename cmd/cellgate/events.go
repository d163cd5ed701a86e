package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"
)

func eventsCommand(c *cli) *cobra.Command {
	t := &target{}
	var vin, id string
	var commands, presence, ledger bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "follow the events of a gateway",
		Long: `events prints the events of one stream as JSON, one per line: of a vehicle (presence, messages, commands), of one
command, of all commands, of the presence of all vehicles, or of the ledger. The stream starts now, covers only this
gateway, and may omit events; Kafka has all of them. When the gateway ends the stream, the last line has "reason" and
"detail". Ctrl-C ends it.`,
		Example: `  cellgate events --vin LTEST000000000001
  cellgate events --vin LTEST000000000001 --command 01J9ZC3V6Q
  cellgate events --presence`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "/v1/vehicles/" + url.PathEscape(vin) + "/events"
			switch {
			case id != "" && vin == "":
				return usagef("events: --command needs --vin")
			case id != "":
				path = "/v1/vehicles/" + url.PathEscape(vin) + "/commands/" + url.PathEscape(id) + "/events"
			case commands:
				path = "/v1/events/commands"
			case presence:
				path = "/v1/events/presence"
			case ledger:
				path = "/v1/events/ledger"
			}
			client, err := t.client()
			if err != nil {
				return err
			}
			var end struct{ Reason, Detail string }
			err = client.stream(cmd.Context(), path, func(data []byte) error {
				end.Reason = ""
				_ = json.Unmarshal(data, &end) //nolint:errcheck // other events are not examined
				if _, err := io.WriteString(c.out, string(data)+"\n"); err != nil {
					return fmt.Errorf("output: %w", err)
				}
				return nil
			})
			if id != "" && end.Reason == "final" && end.Detail != "" {
				return nil // the command is done
			}
			return err
		},
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&vin, "vin", "", "events of this vehicle")
	cmd.Flags().StringVar(&id, "command", "", "events of this command of the vehicle, until its final state")
	cmd.Flags().BoolVar(&commands, "commands", false, "events of all commands")
	cmd.Flags().BoolVar(&presence, "presence", false, "presence events of all vehicles")
	cmd.Flags().BoolVar(&ledger, "ledger", false, "the ledger, each time it changes")
	cmd.MarkFlagsOneRequired("vin", "commands", "presence", "ledger")
	cmd.MarkFlagsMutuallyExclusive("vin", "commands", "presence", "ledger")
	return cmd
}

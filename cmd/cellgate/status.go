package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cellgate/cmd/cellgate/human"

	"github.com/spf13/cobra"

	"cellgate/cmd/cellgate/app"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/rules/sink"
)

func statusCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show a gateway's state and its loss ledger",
		Long: `status shows the state of a gateway, and the ledger of each sink: received = delivered + filtered + dead-lettered +
dropped + pending. unevaluated is the part of pending that the rules have not evaluated. The exit code is 1 if a
ledger does not add up.`,
		Example: "  cellgate status",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			var status json.RawMessage
			var ledger app.LedgerAnswer
			if err := client.do(cmd.Context(), "GET", "/v1/status", nil, &status); err != nil {
				return err
			}
			if err := client.do(cmd.Context(), "GET", "/v1/ledger", nil, &ledger); err != nil {
				return err
			}
			both := map[string]any{"status": status, "ledger": ledger.Sinks}
			if err := c.print(both, func(p *printer) { printStatus(p, status, ledger.Sinks, time.Now()) }); err != nil {
				return err
			}
			for _, s := range ledger.Sinks {
				if !s.Balanced {
					return fmt.Errorf("ledger: %s does not add up: messages are missing or counted twice; keep the log and the journal and report it", s.Sink)
				}
			}
			return nil
		},
	}
	c.callFlags(cmd, t)
	return cmd
}

// printStatus prints the state as a page: a header, the figures, and tables of dependencies, sinks with their ledgers,
// and lanes.
func printStatus(p *printer, raw json.RawMessage, ledger []sink.SinkLedger, now time.Time) {
	var s app.Status
	if !p.decode(raw, &s) {
		return
	}
	p.headline(header(&s)...)
	p.sections(figures(&s, now), gatewaysTable(s.Gateways, now), dependencyTable(&s, now), sinkTable(&s, ledger), parkedTable(&s, now), laneTable(s.Lanes))
}

// header returns the gateway's name and state.
func header(s *app.Status) []string {
	parts := []string{"cell " + s.Cell}
	if s.Region != "" {
		parts = append(parts, "region "+s.Region)
	}
	build := s.Build.Version
	if s.Build.Commit != "" && s.Build.Commit != "unknown" {
		build += " (" + s.Build.Commit + ")"
	}
	health := s.Phase
	if s.Reason != "" {
		health = strings.ToUpper(s.Ready) + ": " + s.Reason
	}
	var away []string
	for _, d := range s.Dependencies {
		if !d.OK {
			away = append(away, d.Name)
		}
	}
	if len(away) > 0 {
		health += ", degraded: " + strings.Join(away, ", ")
	}
	return append(parts, "node "+s.Node, "version "+build, health, "up "+s.Uptime)
}

func figures(s *app.Status, now time.Time) *table {
	t := &table{}
	t.row("connections", countText(s.Connections))
	t.row("commands", fmt.Sprintf("%s open, %s kept, %s events waiting for Kafka", countText(s.Commands.Open), countText(s.Commands.Kept), countText(s.Commands.Waiting)))
	if g := s.Commands.Gone; g != nil {
		t.row("", fmt.Sprintf("GONE unread from vehicle.commands: %s, the last at %s: %s", many(g.Gaps, "gap", "gaps"), whenText(g.At, now), g.Last))
	}
	if len(s.Restart) > 0 {
		t.row("restart", "NEEDED for "+strings.Join(s.Restart, ", "))
	}
	rules := fmt.Sprint(s.Rules.Rules)
	if s.Rules.Hash != "" {
		rules += fmt.Sprintf(", set %.12s", s.Rules.Hash)
	}
	if !s.Rules.Since.IsZero() {
		rules += ", since " + whenText(s.Rules.Since, now)
	}
	t.row("rules", rules)
	if s.Rules.Error != "" { // contains the source line and a caret below it
		for i, line := range strings.Split("ERROR: the rule files are not in force: "+s.Rules.Error, "\n") {
			if i > 0 {
				line = "  " + line
			}
			t.row("", line)
		}
	}
	journalFigures(t, &s.Journal, now)
	return t
}

func journalFigures(t *table, j *app.JournalStatus, now time.Time) {
	size := human.Size(j.Bytes)
	if j.MaxBytes > 0 {
		size += fmt.Sprintf(" of %s (%.1f %%)", human.Size(j.MaxBytes), 100*float64(j.Bytes)/float64(j.MaxBytes))
	}
	t.row("journal", size)
	kept := fmt.Sprintf("records %s to %s on disk", fleet.Count(j.First), fleet.Count(j.Durable))
	if j.Durable < j.First {
		kept = "no records"
	}
	if !j.Oldest.IsZero() {
		kept += ", the oldest of " + whenText(j.Oldest, now)
	}
	t.row("", kept)
	if len(j.Needed) > 0 {
		var by []string
		for _, name := range slices.Sorted(maps.Keys(j.Needed)) {
			by = append(by, fmt.Sprintf("%s from %s", name, fleet.Count(j.Needed[name])))
		}
		t.row("", "needed by "+strings.Join(by, ", "))
	}
	if j.Full != "" {
		t.row("", "FULL: "+j.Full)
	}
	if j.DroppedQoS0 > 0 {
		t.row("", fmt.Sprintf("%s messages of QoS 0 dropped since the start because there was no room", fleet.Count(j.DroppedQoS0)))
	}
	if n := len(j.Corruptions); n > 0 {
		t.row("", "CORRUPT: "+many(n, "place", "places")+"; `cellgate journal verify DIR` shows where")
	}
}

func dependencyTable(s *app.Status, now time.Time) *table {
	t := headed("DEPENDENCY", "OK", "SINCE", "REASON")
	for _, d := range s.Dependencies {
		t.row(d.Name, yesNO(d.OK), whenText(d.Since, now), d.Reason)
	}
	return t
}

// gatewaysTable has a line for each gateway, in a cell of several.
func gatewaysTable(gateways []app.GatewayStatus, now time.Time) *table {
	t := headed("GATEWAY", "LIVES", "PHASE", "CONNECTIONS", "VERSION", "STARTED", "ADDRESS", "DIFFERS IN")
	for _, g := range gateways {
		t.row(g.Node, yesNO(g.Lives), g.Phase, fmt.Sprint(g.Connections), g.Version, whenText(g.Started, now), g.Address, strings.Join(g.Differs, ", "))
	}
	return t
}

// sinkTable has a line for each sink, with its ledger and its lag.
func sinkTable(s *app.Status, ledger []sink.SinkLedger) *table {
	loads := make(map[string]app.SinkLoad, len(s.Sinks))
	for _, l := range s.Sinks {
		loads[l.Sink] = l
	}
	t := headed("SINK", "RECEIVED", "DELIVERED", "FILTERED", "DEAD-LETTERED", "DROPPED", "PENDING", "UNEVALUATED", "BEHIND", "LOG", "ADDS UP")
	for _, l := range ledger {
		load := loads[l.Sink]
		t.row(l.Sink, fleet.Count(l.Received), fleet.Count(l.Delivered), fleet.Count(l.Filtered), fleet.Count(l.DeadLettered), droppedText(&l),
			fleet.Count(l.Pending), fleet.Count(l.Unevaluated), secondsText(load.LagSeconds), human.Size(load.LogBytes), yesNO(l.Balanced))
	}
	return t
}

// parkedTable has a line for each destination that takes no messages.
func parkedTable(s *app.Status, now time.Time) *table {
	t := headed("PARKED", "SINCE", "MESSAGES", "OLDEST", "LOG", "REASON")
	for _, p := range s.Parked {
		oldest := "-"
		if !p.Oldest.IsZero() {
			oldest = whenText(p.Oldest, now)
		}
		t.row(p.Sink+" "+p.Destination, whenText(p.Since, now), fleet.Count(p.Messages), oldest, human.Size(p.Bytes), p.Reason)
	}
	return t
}

// droppedText returns how many messages were dropped, by reason.
func droppedText(l *sink.SinkLedger) string {
	total := uint64(0)
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(l.Dropped)) {
		if n := l.Dropped[reason]; n > 0 {
			total += n
			why = append(why, fmt.Sprintf("%s %s", reason, fleet.Count(n)))
		}
	}
	if total == 0 {
		return "0"
	}
	return fmt.Sprintf("%s (%s)", fleet.Count(total), strings.Join(why, ", "))
}

func laneTable(lanes []app.LaneLoad) *table {
	t := headed("LANE TO CENTRE", "LAG", "BEHIND", "STATE")
	for _, l := range lanes {
		lag, behind, state := "unknown", "unknown", "unknown"
		if l.LagRecords != nil && l.LagSeconds != nil {
			lag, behind, state = countText(*l.LagRecords), secondsText(*l.LagSeconds), "forwards"
		}
		if n := len(l.Gaps); n > 0 {
			state = "STANDS at " + many(n, "gap", "gaps")
		}
		if l.Paused {
			state = "PAUSED"
		}
		t.row(laneName(lanes, &l), lag, behind, state)
	}
	return t
}

// laneName returns a lane's name, with its centre's if there are several.
func laneName(lanes []app.LaneLoad, l *app.LaneLoad) string {
	for i := range lanes {
		if lanes[i].Centre != l.Centre {
			return l.Lane + " to " + l.Centre
		}
	}
	return l.Lane
}

// countText is fleet.Count for signed counts that are never negative.
func countText[N int | int64](n N) string { return fleet.Count(uint64(max(n, 0))) }

func secondsText(s float64) string { return human.Span(time.Duration(s * float64(time.Second))) }

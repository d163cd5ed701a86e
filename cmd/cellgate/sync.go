package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cellgate/cmd/cellgate/human"

	"github.com/spf13/cobra"

	"cellgate/broker/clock"
	"cellgate/cmd/cellgate/app"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/configs"
)

func syncCommand(c *cli) *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "show, pause or resume the lanes to the centre, skip gaps, or run the worker separately",
		Long: `sync --config FILE runs the sync worker as a separate process. It forwards the outbox topics of the cell's Kafka to
the centres of the configuration, and serves /metrics, /readyz and /v1/sync at http.address. It forwards the whole
outbox, so remove the section central from the gateways' configuration. It needs a separate data_dir. With the
auth.keys_dir of a gateway it accepts that gateway's tokens. SIGHUP reloads the section central. SIGTERM and Ctrl-C
stop the worker.`,
		Example: `  cellgate sync --config configs/sync.yaml
  cellgate sync status
  cellgate sync pause p2
  cellgate sync skip p0`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return cmd.Help()
			}
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			return c.forward(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file")
	cmd.AddCommand(syncStatusCommand(c), syncPauseCommand(c, "pause", "pause lanes to the centre",
		`pause stops this gateway from forwarding a lane (p0, p1, p2; without LANE: all). Records in flight still arrive; the
others wait in the outbox. The pause lasts until cellgate sync resume, also after restarts.`),
		syncPauseCommand(c, "resume", "resume paused lanes", `resume continues a lane (p0, p1, p2; without LANE: all) that cellgate sync pause has stopped.`),
		syncSkipCommand(c))
	return cmd
}

// forward runs the sync worker as its own process.
func (c *cli) forward(ctx context.Context, cfg *configs.Config) error {
	w, err := app.NewSyncWorker(ctx, app.Options{Config: cfg, Build: app.Build{Version: version, Commit: commit}, Log: c.err, Clock: clock.System()})
	if err != nil {
		return err
	}
	stop := c.onHangup(w)
	defer stop()
	if err := w.Run(ctx, stopLimit); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func syncStatusCommand(c *cli) *cobra.Command {
	return call[app.SyncAnswer]{"GET", "/v1/sync", nil, printSync}.command(c, &cobra.Command{
		Use:   "status",
		Short: "show lag, gaps and skips of the lanes",
		Long: `status shows how far the lanes to the centre lag, the gaps at which they have stopped, and the gaps that operators
have skipped.`,
		Example: "  cellgate sync status",
	})
}

// lanesOf returns the body of a call about one lane or all, to one centre or all.
func lanesOf(args []string, centre string) map[string]string {
	body := map[string]string{}
	if len(args) == 1 {
		body["lane"] = args[0]
	}
	if centre != "" {
		body["centre"] = centre
	}
	return body
}

func centreFlag(cmd *cobra.Command, centre *string) {
	cmd.Flags().StringVar(centre, "centre", "", "only the lanes to this centre, if there are several")
}

func syncPauseCommand(c *cli, verb, short, long string) *cobra.Command {
	t, centre := &target{}, ""
	cmd := &cobra.Command{
		Use: verb + " [LANE]", Short: short, Long: long, Example: "  cellgate sync " + verb + " p2", Args: mayTake("LANE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call[app.SyncAnswer]{"POST", "/v1/sync/" + verb, lanesOf(args, centre), func(p *printer, s *app.SyncAnswer, _ time.Time) { laneTable(s.Lanes).write(p) }}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	centreFlag(cmd, &centre)
	return cmd
}

func syncSkipCommand(c *cli) *cobra.Command {
	t, centre := &target{}, ""
	cmd := &cobra.Command{
		Use:   "skip [LANE]",
		Short: "continue after a gap in the outbox",
		Long: `skip continues a lane (p0, p1, p2; without LANE: all) that has stopped at a gap: records of its outbox topic were
deleted before they were forwarded, by retention, or because the topic was recreated or truncated. The missing records
are lost. A recreated topic is forwarded from its first record. The skip is audited with the operator's name, and
applies to all gateways of the cell, also after restarts.`,
		Example: `  cellgate sync skip p0
  cellgate sync skip`,
		Args: mayTake("LANE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call[app.SkipAnswer]{"POST", "/v1/sync/skip", lanesOf(args, centre), func(p *printer, s *app.SkipAnswer, now time.Time) { skippedTable(s.Skipped, now).write(p) }}.print(cmd, c, t)
		},
	}
	c.callFlags(cmd, t)
	centreFlag(cmd, &centre)
	return cmd
}

// flowTable has a line for each lane: its flow, and how long waiting records may still wait.
func flowTable(lanes []app.LaneLoad) *table {
	t := &table{}
	t.row("LANE", "RECORDS/S", "WAITING", "DRAINED IN", "RETENTION IN", "IN FLIGHT", "SENT", "OF", "SENT AGAIN")
	span := func(s *float64) string {
		if s == nil {
			return "-"
		}
		return secondsText(*s)
	}
	for _, l := range lanes {
		waiting := "unknown"
		if l.LagBytes != nil {
			waiting = human.Size(*l.LagBytes)
		}
		t.row(laneName(lanes, &l), fmt.Sprintf("%.0f", l.Rate), waiting, span(l.DrainSeconds), span(l.HeadroomSeconds), countText(l.InFlight),
			human.Size(int64(l.WireBytes)), human.Size(int64(l.RawBytes)), reasonsText(l.Retries))
	}
	return t
}

// reasonsText formats counts by reason, most frequent first.
func reasonsText(counts map[string]uint64) string {
	reasons := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%d %s", counts[r], r)
	}
	return cmp.Or(strings.Join(reasons, ", "), "-")
}

// shownSkips is how many of the last skips are shown.
const shownSkips = 20

func printSync(p *printer, s *app.SyncAnswer, now time.Time) {
	gaps := headed("GAP", "TOPIC", "PARTITION", "GONE", "GOES ON AT", "SINCE")
	for _, l := range s.Lanes {
		for i := range l.Gaps {
			g := &l.Gaps[i]
			gaps.row(g.Lane, g.Topic, fmt.Sprint(g.Partition), goneText(g), fleet.Count(uint64(g.Next)), whenText(g.Since, now))
		}
	}
	p.sections(laneTable(s.Lanes), flowTable(s.Lanes), gaps, skippedTable(s.Skipped[:min(len(s.Skipped), shownSkips)], now))
}

func skippedTable(all []app.SkippedGap, now time.Time) *table {
	t := headed("SKIPPED", "TOPIC", "PARTITION", "GONE", "WENT ON AT", "BY", "AT", "DONE")
	for i := range all {
		s := &all[i]
		t.row(s.Lane, s.Topic, fmt.Sprint(s.Partition), goneText(&s.LaneGap), fleet.Count(uint64(s.Next)), s.By, whenText(s.At, now), yesNO(s.Done))
	}
	return t
}

// goneText returns which records are missing.
func goneText(g *app.LaneGap) string {
	if g.Records == nil {
		return fmt.Sprintf("from %s on, of an earlier topic", fleet.Count(uint64(g.From)))
	}
	return fmt.Sprintf("%s to %s", fleet.Count(uint64(g.From)), fleet.Count(uint64(g.Next-1)))
}

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/cmd/cellgate/app"
	"cellgate/cmd/cellgate/preflight"
	"cellgate/configs"
)

func topicsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topics",
		Short: "list or create the Kafka topics that the configuration and the rules need",
		Long: `topics lists or creates the topics of presence, of commands, of the outbox to the centre, and those that the rules
name, including error topics. It omits topics whose names depend on messages (${class}).`,
		Example: `  cellgate topics list --config configs/cell.yaml
  cellgate topics create --config configs/cell.yaml --dry-run`,
	}
	cmd.AddCommand(topicsListCommand(c), topicsCreateCommand(c))
	return cmd
}

// topicLine is a topic and its state in the cluster.
type topicLine struct {
	preflight.Topic
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
	State      string `json:"state"` // there, missing, made, would be made, or why not
	failed     bool
}

const (
	topicThere   = "there"
	topicMissing = "missing"
)

// topicsTime is the timeout for the calls to a cluster.
const topicsTime = 30 * time.Second

// topics asks both clusters about all topics.
func (t *target) topics(ctx context.Context) ([]topicLine, *configs.Config, error) {
	cfg, _, err := t.load()
	if err != nil {
		return nil, nil, err
	}
	set, err := app.Rules(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	var lines []topicLine
	for _, topic := range preflight.Topics(cfg, set) {
		lines = append(lines, topicLine{Topic: topic})
	}
	for _, at := range preflight.Clusters(cfg) {
		if err := askTopics(ctx, at, lines); err != nil {
			return nil, nil, err
		}
	}
	return lines, cfg, nil
}

// askTopics fills in the state of the topics in one cluster.
func askTopics(ctx context.Context, at preflight.Cluster, lines []topicLine) error {
	var names []string
	for i := range lines {
		if lines[i].Cluster == at.Section {
			names = append(names, lines[i].Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	admin, err := app.KafkaAdmin(at.Section, at.Kafka)
	if err != nil {
		return err
	}
	states, err := admin.Topics(ctx, names)
	if err != nil {
		return fmt.Errorf("%s: %w", at.Section, err)
	}
	by := map[string]*kafkaclient.TopicState{}
	for i := range states {
		by[states[i].Name] = &states[i]
	}
	for i := range lines {
		if l := &lines[i]; l.Cluster == at.Section {
			s := by[l.Name]
			l.Partitions, l.Replicas = s.Partitions, s.Replicas
			switch {
			case s.Missing:
				l.State = topicMissing
			case s.Err != nil:
				l.State, l.failed = s.Err.Error(), true
			default:
				l.State = topicThere
			}
		}
	}
	return nil
}

func topicsListCommand(c *cli) *cobra.Command {
	t := &target{}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "list the topics, and which of them exist",
		Long:    "list shows the topics and whether they exist. The exit code is 1 if one is missing.",
		Example: "  cellgate topics list --config configs/cell.yaml",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), topicsTime)
			defer cancel()
			lines, _, err := t.topics(ctx)
			if err != nil {
				return err
			}
			return c.printTopics(lines)
		},
	}
	t.localFlags(cmd)
	c.jsonFlag(cmd)
	return cmd
}

func topicsCreateCommand(c *cli) *cobra.Command {
	t := &target{}
	partitions, replication, dry := 0, 0, false
	cmd := &cobra.Command{
		Use:   "create",
		Short: "create the topics that are missing",
		Long: `create creates the missing topics, with the partitions and replication of their cluster's section of the configuration
unless flags give others; -1 means the brokers' defaults. Existing topics are not changed. With --dry-run the cluster
only checks the requests.`,
		Example: `  cellgate topics create --config configs/cell.yaml --dry-run
  cellgate topics create --config configs/cell.yaml --partitions 24 --replication 3`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), topicsTime)
			defer cancel()
			lines, cfg, err := t.topics(ctx)
			if err != nil {
				return err
			}
			for _, at := range preflight.Clusters(cfg) {
				for i := range lines {
					if l := &lines[i]; l.Cluster == at.Section && l.State == topicMissing {
						l.Partitions, l.Replicas = orSection(partitions, at.Partitions), orSection(replication, at.Replication)
						l.make(ctx, at.Kafka, dry)
					}
				}
			}
			return c.printTopics(lines)
		},
	}
	t.localFlags(cmd)
	cmd.Flags().IntVar(&partitions, "partitions", 0, "partitions of each new topic (default from the configuration)")
	cmd.Flags().IntVar(&replication, "replication", 0, "replication of each new topic (default from the configuration)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "change nothing")
	c.jsonFlag(cmd)
	return cmd
}

// orSection returns a flag's value, else the configuration's, else -1 for the brokers' default.
func orSection(flag, section int) int {
	switch {
	case flag != 0:
		return flag
	case section != 0:
		return section
	}
	return -1
}

func (l *topicLine) make(ctx context.Context, k *configs.Kafka, dry bool) {
	admin, err := app.KafkaAdmin(l.Cluster, k)
	if err == nil {
		err = admin.Create(ctx, l.Name, l.Partitions, l.Replicas, dry)
	}
	switch {
	case err != nil:
		l.State, l.failed = err.Error(), true
	case dry:
		l.State = "would be created"
	default:
		l.State = "made"
	}
}

// printTopics prints the topics. Missing topics, and those that could not be created, make the answer no.
func (c *cli) printTopics(lines []topicLine) error {
	err := c.print(lines, func(p *printer) {
		t := table{}
		t.row("TOPIC", "CLUSTER", "FOR", "PARTITIONS", "STATE")
		for i := range lines {
			l := &lines[i]
			partitions := "-"
			if l.Partitions > 0 {
				partitions = fmt.Sprint(l.Partitions)
			}
			t.row(l.Name, l.Cluster, l.For, partitions, l.State)
		}
		t.write(p)
	})
	for i := range lines {
		if err == nil && (lines[i].failed || lines[i].State == topicMissing) {
			return silentError{}
		}
	}
	return err
}

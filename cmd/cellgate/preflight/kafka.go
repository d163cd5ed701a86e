package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/cmd/cellgate/app"
	"cellgate/configs"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	syncer "cellgate/sync"
)

// Topic is a topic that the configuration or the rules need.
type Topic struct {
	Cluster string `json:"cluster"` // the section of the configuration: kafka, or that of a centre
	Name    string `json:"topic"`
	// For says what needs it.
	For   string `json:"for"`
	reads bool   // the gateway reads it
}

// Topics returns the topics of both clusters that are known in advance, in order. Topics whose names depend on messages
// are not among them.
func Topics(c *configs.Config, set *lang.Set) []Topic {
	presence, results, commands := app.OwnTopics()
	all := []Topic{
		{Cluster: "kafka", Name: presence, For: "presence of vehicles"},
		{Cluster: "kafka", Name: results, For: "states of commands"},
	}
	if c.Commands.FromKafka {
		all = append(all, Topic{Cluster: "kafka", Name: commands, For: "commands.from_kafka", reads: true})
	}
	if set != nil {
		for _, name := range sink.Topics(set, op.SinkKafka) {
			all = append(all, Topic{Cluster: "kafka", Name: name, For: "rules"})
		}
	}
	central := []string(nil)
	if set != nil {
		central = sink.Topics(set, op.SinkCentral)
	}
	if c.Central != nil || len(central) > 0 {
		for _, name := range kafkaclient.OutboxTopics() {
			all = append(all, Topic{Cluster: "kafka", Name: name, For: "outbox to the centre", reads: c.Central != nil})
		}
	}
	if c.Central != nil {
		all = append(all, Topic{Cluster: "kafka", Name: syncer.ErrorTopic, For: "records that the centre refuses"})
		for _, at := range Clusters(c)[1:] {
			for _, name := range central {
				all = append(all, Topic{Cluster: at.Section, Name: name, For: "rules, through the outbox"})
			}
		}
	}
	slices.SortFunc(all, func(a, b Topic) int {
		return cmp.Or(cmp.Compare(b.Cluster, a.Cluster), cmp.Compare(a.Name, b.Name))
	})
	return slices.CompactFunc(all, func(a, b Topic) bool { return a.Cluster == b.Cluster && a.Name == b.Name })
}

// Cluster is a Kafka cluster named by the configuration.
type Cluster struct {
	Section string // of the configuration
	*configs.Kafka
}

// Clusters returns the cell's cluster, then those of the centres.
func Clusters(c *configs.Config) []Cluster {
	all := []Cluster{{"kafka", &c.Kafka}}
	for i := range c.Central {
		all = append(all, Cluster{app.CentralSetting(c, i) + ".kafka", &c.Central[i].Kafka})
	}
	return all
}

func (c *checks) kafka(ctx context.Context) {
	all := Topics(c.cfg, c.set)
	for _, at := range Clusters(c.cfg) {
		c.cluster(ctx, at.Section, at.Kafka, all)
	}
}

func (c *checks) cluster(ctx context.Context, section string, k *configs.Kafka, all []Topic) {
	admin, err := app.KafkaAdmin(section, k)
	if err != nil {
		c.bad("kafka", section, err.Error(), "")
		return
	}
	for _, broker := range k.Brokers {
		limit, cancel := context.WithTimeout(ctx, timeLimit)
		if err := admin.Reach(limit, broker); err != nil {
			c.bad("kafka", section+".brokers", broker+": "+err.Error(), kafkaRemedy(section, err))
		} else {
			c.good("kafka", section+".brokers", "%s answers", broker)
		}
		cancel()
	}
	wanted := slices.DeleteFunc(slices.Clone(all), func(t Topic) bool { return t.Cluster != section })
	names := make([]string, len(wanted))
	for i := range wanted {
		names[i] = wanted[i].Name
	}
	limit, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	states, err := admin.Topics(limit, names)
	if err != nil {
		c.bad("topic", section, "no broker answers for the topics", "fix what is reported for "+section+".brokers")
		return
	}
	for i := range states {
		c.topic(k, &wanted[i], &states[i])
	}
}

// kafkaRemedy returns what to do about a broker that cannot be used.
func kafkaRemedy(section string, err error) string {
	switch {
	case errors.Is(err, kafkaclient.ErrLogin):
		return "look at " + section + ".sasl: mechanism, user and password"
	case errors.Is(err, kafkaclient.ErrTLS):
		return "look at " + section + ".tls: ca, server_name, cert and key; a listener without TLS needs no tls section"
	}
	return "check the address, the network and whether the broker runs"
}

func (c *checks) topic(k *configs.Kafka, t *Topic, s *kafkaclient.TopicState) {
	where := t.Cluster + " topic " + t.Name
	create := "`cellgate topics create` creates it"
	switch {
	case s.Missing && k.AutoCreateTopics:
		c.warn("topic", where, "is missing; the gateway creates it when it is needed, as "+t.Cluster+".auto_create_topics says", create+" beforehand")
	case s.Missing:
		c.bad("topic", where, "is missing, for "+t.For, create)
	case s.Err != nil:
		c.bad("topic", where, s.Err.Error(), "give "+user(k)+" the rights to describe and use it")
	case !s.MayWrite && t.For != "commands.from_kafka":
		c.bad("topic", where, user(k)+" may not write to it", "add an ACL: WRITE on topic "+t.Name)
	case t.reads && !s.MayRead:
		c.bad("topic", where, user(k)+" may not read it", "add an ACL: READ on topic "+t.Name)
	case k.Partitions > 0 && s.Partitions < k.Partitions:
		c.warn("topic", where, fmt.Sprintf("has %d partitions, fewer than %s.partitions (%d)", s.Partitions, t.Cluster, k.Partitions), "add partitions while no consumer relies on the order of keys, or lower the setting")
	case s.InSync < s.Replicas:
		c.warn("topic", where, fmt.Sprintf("%d of %d replicas of a partition are in sync", s.InSync, s.Replicas), "check which broker is down")
	default:
		c.good("topic", where, "%d partitions, %d replicas", s.Partitions, s.Replicas)
	}
}

func user(k *configs.Kafka) string {
	if k.SASL != nil {
		return "user " + k.SASL.User
	}
	return "the gateway's user"
}

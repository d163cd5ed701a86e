package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
)

const (
	// partitions is the number of partitions of each topic.
	partitions = 4
	// retention bounds the records of a fleet that is left running.
	retention = "86400000" // ms
)

// Kafka is an embedded Kafka-protocol broker that keeps its data in a folder.
type Kafka struct {
	cluster *kfake.Cluster
	addr    string
}

// StartKafka listens at addr, a loopback host and port (0 picks a free one), with its data in dir, and creates missing
// topics. setting names the source of the address in errors.
func StartKafka(ctx context.Context, setting, addr, dir string, topics []string) (*Kafka, error) {
	port, err := loopbackPort(setting, addr)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("embedded kafka: %w", err)
	}
	cluster, err := kfake.NewCluster(kfake.Ports(port), kfake.DataDir(dir), kfake.ClusterID("cellgate-dev"),
		kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(partitions))
	if err != nil {
		return nil, bindError(setting, addr, err)
	}
	k := &Kafka{cluster: cluster, addr: cluster.ListenAddrs()[0]}
	if err := k.createTopics(ctx, topics); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// Addr returns host:port.
func (k *Kafka) Addr() string { return k.addr }

// Close stops the broker and fsyncs its data.
func (k *Kafka) Close() { k.cluster.Close() }

// createTopics creates missing topics.
func (k *Kafka) createTopics(ctx context.Context, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var wanted []kafka.TopicConfig
	for _, t := range topics {
		wanted = append(wanted, kafka.TopicConfig{
			Topic: t, NumPartitions: partitions, ReplicationFactor: 1,
			ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: retention}},
		})
	}
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := kafka.Client{Addr: kafka.TCP(k.addr), Transport: transport}
	answer, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: wanted})
	if err != nil {
		return fmt.Errorf("embedded kafka: create topics: %w", err)
	}
	for topic, err := range answer.Errors {
		if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			return fmt.Errorf("embedded kafka: create topic %s: %w", topic, err)
		}
	}
	return nil
}

// loopbackPort returns the port of an address for an embedded part.
func loopbackPort(setting, addr string) (int, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not host:port", setting, addr)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return 0, fmt.Errorf("%s: %q is not a port", setting, text)
	}
	if host != "localhost" && host != "127.0.0.1" {
		return 0, fmt.Errorf("%s: %s: the embedded server listens at 127.0.0.1 only; for a server elsewhere use `cellgate run`", setting, addr)
	}
	return port, nil
}

// bindError adds to a listen error the setting that the address comes from.
func bindError(setting, addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "listen" {
		return fmt.Errorf("%s: %s is taken: %w; stop what listens there (another `cellgate dev`?), change %s in the configuration, or start with --free-ports", setting, addr, op.Err, setting)
	}
	return fmt.Errorf("%s: %s: %w", setting, addr, err)
}

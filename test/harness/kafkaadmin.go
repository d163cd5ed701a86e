package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
)

// admin runs do with an admin client that bypasses the Links; the limit is 15 s.
func (k *Kafka) admin(what string, do func(context.Context, *kadm.Client) error) {
	k.t.Helper()
	if err := k.tryAdmin(do); err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
}

func (k *Kafka) tryAdmin(do func(context.Context, *kadm.Client) error) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Direct()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(k.t.Context(), 15*time.Second)
	defer cancel()
	return do(ctx, kadm.NewClient(cl))
}

// Write writes one record.
func (k *Kafka) Write(topic, key, value string) {
	k.t.Helper()
	cl := k.Client(k.t)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		k.t.Fatalf("write to %s: %v", topic, err)
	}
}

// CreateTopic creates a topic with the brokers' defaults and the given settings, such as max.message.bytes.
func (k *Kafka) CreateTopic(topic string, settings map[string]string) {
	k.t.Helper()
	k.admin("create topic "+topic, func(ctx context.Context, c *kadm.Client) error {
		values := map[string]*string{}
		for name, v := range settings {
			values[name] = &v
		}
		_, err := c.CreateTopic(ctx, -1, -1, values, topic)
		return err
	})
}

// MakeTopics deletes the topics that exist and creates all of them with a number of partitions.
func (k *Kafka) MakeTopics(partitions int32, topics ...string) {
	k.t.Helper()
	k.DeleteTopics(topics...)
	k.admin("create topics", func(ctx context.Context, c *kadm.Client) error {
		for ctx.Err() == nil { // a cluster deletes topics asynchronously
			res, err := c.CreateTopics(ctx, partitions, -1, nil, topics...)
			if err != nil {
				return err
			}
			if err = res.Error(); err == nil || !errors.Is(err, kerr.TopicAlreadyExists) {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return ctx.Err()
	})
}

// DeleteTopics deletes the topics that exist.
func (k *Kafka) DeleteTopics(topics ...string) {
	k.t.Helper()
	k.admin("delete topics", func(ctx context.Context, c *kadm.Client) error {
		res, err := c.DeleteTopics(ctx, topics...)
		if err != nil {
			return err
		}
		if err = res.Error(); errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil
		}
		return err
	})
}

// AlterTopic changes one setting of a topic.
func (k *Kafka) AlterTopic(topic, name, value string) {
	k.t.Helper()
	k.admin("alter topic "+topic, func(ctx context.Context, c *kadm.Client) error {
		res, err := c.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: name, Value: &value}}, topic)
		if err != nil {
			return err
		}
		_, err = res.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
		return err
	})
}

// MoveLeaders moves the leadership of every partition of the topic to another replica and waits for it.
func (k *Kafka) MoveLeaders(topic string) {
	k.t.Helper()
	var want map[int32]int32
	k.admin("move the leaders of "+topic, func(ctx context.Context, c *kadm.Client) (err error) {
		want, err = reorder(ctx, c, topic)
		return err
	})
	check.Within(k.t, 20*time.Second, "other leaders of "+topic, func() error {
		return k.tryAdmin(func(ctx context.Context, c *kadm.Client) error {
			// The election is repeated until the controller knows the new order of replicas.
			if _, err := c.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil); err != nil {
				return err
			}
			details, err := c.ListTopics(ctx, topic)
			if err != nil {
				return err
			}
			for p, leader := range want {
				if got := details[topic].Partitions[p].Leader; got != leader {
					return fmt.Errorf("partition %d is led by %d, want %d", p, got, leader)
				}
			}
			return nil
		})
	})
}

// reorder makes the last replica of every partition the preferred leader.
func reorder(ctx context.Context, c *kadm.Client, topic string) (map[int32]int32, error) {
	details, err := c.ListTopics(ctx, topic)
	if err != nil {
		return nil, err
	}
	req, want := kadm.AlterPartitionAssignmentsReq{}, map[int32]int32{}
	for p, d := range details[topic].Partitions {
		n := len(d.Replicas)
		replicas := append([]int32{d.Replicas[n-1]}, d.Replicas[:n-1]...)
		want[p] = replicas[0]
		req.Assign(topic, p, replicas)
	}
	if len(want) == 0 {
		return nil, fmt.Errorf("no partitions")
	}
	res, err := c.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return nil, err
	}
	return want, res.Error()
}

// AwaitInSync waits until every replica of every partition of the topics is in sync.
func (k *Kafka) AwaitInSync(limit time.Duration, topics ...string) {
	k.t.Helper()
	check.Within(k.t, limit, "replicas in sync", func() error {
		return k.tryAdmin(func(ctx context.Context, c *kadm.Client) error {
			details, err := c.ListTopics(ctx, topics...)
			if err != nil {
				return err
			}
			for _, t := range details {
				if t.Err != nil {
					return fmt.Errorf("%s: %w", t.Topic, t.Err)
				}
				for p, d := range t.Partitions {
					if len(d.ISR) < len(d.Replicas) {
						return fmt.Errorf("%s/%d: in sync %v of %v", t.Topic, p, d.ISR, d.Replicas)
					}
				}
			}
			return nil
		})
	})
}

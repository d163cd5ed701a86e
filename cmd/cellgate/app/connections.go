package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/stable"
	"cellgate/configs"
	"cellgate/rules/lang"
)

// clientTLS returns the TLS configuration towards Kafka or Redis; nil for none.
func clientTLS(setting string, c *configs.ClientTLS) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CA != "" {
		pool, err := stable.CertPool(string(c.CA))
		if err != nil {
			return nil, fmt.Errorf("%s.ca: %w", setting, err)
		}
		config.RootCAs = pool
	}
	if c.Cert != "" {
		pair, err := stable.KeyPair(string(c.Cert), string(c.Key))
		if err != nil {
			return nil, fmt.Errorf("%s.cert: %w", setting, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// kafkaConfig returns how to reach a Kafka cluster.
func kafkaConfig(setting string, c *configs.Kafka) (kafkaclient.Config, error) {
	config, err := clientTLS(setting+".tls", c.TLS)
	if err != nil {
		return kafkaclient.Config{}, err
	}
	k := kafkaclient.Config{
		Brokers: c.Brokers, TLS: config, ClientID: c.ClientID, RequestTimeout: c.Timeout.Std(), Timing: kafkaclient.NormalTiming(),
	}
	if c.SASL != nil {
		k.SASL = &kafkaclient.SASL{Mechanism: c.SASL.Mechanism, User: c.SASL.User, Password: c.SASL.Password.Reveal()}
	}
	return k, nil
}

// KafkaAdmin returns an admin client for the cluster of a configuration section, for tools.
func KafkaAdmin(setting string, c *configs.Kafka) (*kafkaclient.Admin, error) {
	config, err := kafkaConfig(setting, c)
	if err != nil {
		return nil, err
	}
	return kafkaclient.NewAdmin(config)
}

// OwnTopics returns the topics of the cell's Kafka that the gateway uses whatever the rules say, for tools.
func OwnTopics() (presence, results, commands string) {
	return topicPresence, topicResults, topicCommands
}

// Rules reads and compiles the rule files of a configuration as the start does, for tools.
func Rules(ctx context.Context, c *configs.Config) (*lang.Set, error) {
	f, err := lang.ReadFolder(ctx, string(c.Rules.Path))
	if err != nil {
		return nil, err
	}
	return f.Compile(ruleOptions(c))
}

// ConnectionLimit returns how many clients the process may have under a limit of descriptors.
func ConnectionLimit(c *configs.Config, descriptors uint64) int {
	return limitsOf(c, divide(descriptors).clients).MaxConnections
}

// topicSpec returns how missing topics are created; nil if they are not.
func topicSpec(c *configs.Kafka) *kafkaclient.TopicSpec {
	if !c.AutoCreateTopics {
		return nil
	}
	return &kafkaclient.TopicSpec{Partitions: c.Partitions, Replication: c.Replication}
}

// producerOptions returns the options of a producer for the cluster.
func producerOptions(setting, name string, c *configs.Kafka, log *slog.Logger, m *kafkaclient.Metrics) (kafkaclient.ProducerOptions, error) {
	config, err := kafkaConfig(setting, c)
	if err != nil {
		return kafkaclient.ProducerOptions{}, err
	}
	return kafkaclient.ProducerOptions{
		Config: config, Name: name, Compression: c.Compression, Linger: c.Linger.Std(), BatchBytes: int(c.BatchBytes),
		BatchRecords: configs.KafkaBatchRecords,
		AutoCreate:   topicSpec(c), MissingTopicGrace: c.MissingTopicGrace.Std(), Log: log, Metrics: m,
	}, nil
}

// RedisClient returns a client for a server, a cluster, or sentinels. It does not dial yet.
func RedisClient(c *configs.Redis) (redis.UniversalClient, error) {
	return new(redisConns).client(c)
}

// client is RedisClient for connections of c.
func (conns *redisConns) client(c *configs.Redis) (redis.UniversalClient, error) {
	config, err := clientTLS("redis.tls", c.TLS)
	if err != nil {
		return nil, err
	}
	o := &redis.UniversalOptions{
		Addrs: c.Addresses, Username: c.Username, Password: c.Password.Reveal(), DB: c.DB,
		IsClusterMode: c.Cluster, MasterName: c.Master,
		SentinelUsername: c.SentinelUsername, SentinelPassword: c.SentinelPassword.Reveal(),
		TLSConfig: config, PoolSize: c.PoolSize, ReadTimeout: c.Timeout.Std(), WriteTimeout: c.Timeout.Std(), DialTimeout: c.Timeout.Std(),
		MaxRetries:            -1, // callers retry themselves: they know what must stay in order
		DialerRetries:         1,
		ContextTimeoutEnabled: true, DisableIdentity: true,
		Dialer: conns.dialer(c.Timeout.Std(), config),
	}
	if !c.Cluster {
		return redis.NewUniversalClient(o), nil
	}
	// go-redis does not read the cluster's slots again when a master stops answering, only after a redirect or when
	// what it knows is too old (one minute by default).
	cluster := o.Cluster()
	cluster.ClusterStateReloadInterval = clusterReload
	return redis.NewClusterClient(cluster), nil
}

// clusterReload bounds how long the gateway keeps asking the old master after a failover in a Redis cluster.
const clusterReload = 2 * time.Second

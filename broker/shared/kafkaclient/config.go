package kafkaclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/remote"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// errConfig is wrapped by every error about a Config.
var errConfig = errors.New("kafka settings")

// Config says how to reach one Kafka cluster.
type Config struct {
	// Brokers are bootstrap addresses, host:port; at least one.
	Brokers []string
	TLS     *tls.Config `zero:"plain connections"`
	SASL    *SASL       `zero:"the cluster asks for no login"`
	// ClientID is what the broker sees in its logs and quotas.
	ClientID string
	// RequestTimeout limits one request, the broker's work included.
	RequestTimeout time.Duration
	Timing
}

// Timing sets a client's timeouts and intervals: NormalTiming, except in tests.
type Timing struct {
	remote.Pace
	// DialTimeout limits connect, TLS and SASL together.
	DialTimeout time.Duration
	// MetadataTTL is the maximum age of known leaders, and so how long a moved partition goes unnoticed.
	MetadataTTL time.Duration
	// PartitionWatchInterval is how often a consumer looks for new topics and partitions.
	PartitionWatchInterval time.Duration
}

// NormalTiming returns the timing of a gateway.
func NormalTiming() Timing {
	return Timing{
		Pace: remote.NormalPace(), DialTimeout: 5 * time.Second, MetadataTTL: time.Second,
		PartitionWatchInterval: time.Second,
	}
}

// SASL is a mechanism with credentials.
type SASL struct {
	// Mechanism is plain, scram-sha-256 or scram-sha-512.
	Mechanism string
	User      string
	Password  string
}

// check validates options and the Config in them.
func (c Config) check(options any) error {
	if err := complete.Check(options); err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	if len(c.Brokers) == 0 {
		return fmt.Errorf("%w: no broker address", errConfig)
	}
	_, err := c.mechanism()
	return err
}

func (c Config) mechanism() (sasl.Mechanism, error) {
	if c.SASL == nil {
		return nil, nil
	}
	var (
		m   sasl.Mechanism
		err error
	)
	switch strings.ToLower(c.SASL.Mechanism) {
	case "plain":
		m = plain.Mechanism{Username: c.SASL.User, Password: c.SASL.Password}
	case "scram-sha-256":
		m, err = scram.Mechanism(scram.SHA256, c.SASL.User, c.SASL.Password)
	case "scram-sha-512":
		m, err = scram.Mechanism(scram.SHA512, c.SASL.User, c.SASL.Password)
	default:
		return nil, fmt.Errorf("%w: unknown SASL mechanism %q; use plain, scram-sha-256 or scram-sha-512",
			errConfig, c.SASL.Mechanism)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: SASL %s: %w", errConfig, c.SASL.Mechanism, err)
	}
	return m, nil
}

// transport returns a connection pool whose cached metadata covers only topics: with an empty list kafka-go would
// request every topic of the cluster once a second.
func (c Config) transport(topics []string) *kafka.Transport {
	m, _ := c.mechanism() // validated by check
	d := &net.Dialer{Timeout: c.DialTimeout, KeepAlive: 15 * time.Second}
	return &kafka.Transport{
		Dial:           d.DialContext,
		DialTimeout:    c.DialTimeout,
		IdleTimeout:    30 * time.Second,
		MetadataTTL:    c.MetadataTTL,
		MetadataTopics: topics,
		ClientID:       c.ClientID,
		TLS:            c.TLS,
		SASL:           m,
	}
}

// client returns a client that gives brokers half of the timeout for their part of a request. Otherwise kafka-go sets
// 500 ms, after which brokers report that replicas do not have a batch yet.
func (c Config) client(topics []string) *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(c.Brokers...), Transport: c.transport(topics), Timeout: c.RequestTimeout}
}

// ping requests API versions from any bootstrap broker, which needs no topic.
func ping(ctx context.Context, c *kafka.Client) error {
	r, err := c.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	if err != nil {
		return fmt.Errorf("ping kafka: %w", err)
	}
	if r.Error != nil {
		return fmt.Errorf("ping kafka: %w", r.Error)
	}
	return nil
}

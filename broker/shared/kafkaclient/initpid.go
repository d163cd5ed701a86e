package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
)

// initProducerID asks any broker for a new producer id.
//
// kafka.Client.InitProducerID cannot be used without transactions: it first looks for the coordinator of the
// transaction "". That makes a real cluster create its transaction log, and fails if the log cannot be replicated. A
// RawExchanger goes to any broker.
func initProducerID(ctx context.Context, c *kafka.Client) (producerState, error) {
	m, err := c.Transport.RoundTrip(ctx, c.Addr, &initProducerRequest{})
	if err != nil {
		return producerState{}, fmt.Errorf("ask for a producer id: %w", err)
	}
	res, ok := m.(*initproducerid.Response)
	if !ok {
		return producerState{}, fmt.Errorf("ask for a producer id: %w: answer %T", kafka.Unknown, m)
	}
	if res.ErrorCode != 0 {
		return producerState{}, fmt.Errorf("ask for a producer id: %w", kafka.Error(res.ErrorCode))
	}
	return producerState{id: res.ProducerID, epoch: res.ProducerEpoch}, nil
}

// noIdempotence reports whether a cluster gives out no producer ids: it is too old, or (before Kafka 3.0) the
// IdempotentWrite permission is missing. Delivery is still at-least-once then.
func noIdempotence(err error) bool {
	return errors.Is(err, kafka.UnsupportedVersion) || errors.Is(err, kafka.ClusterAuthorizationFailed) ||
		errors.Is(err, kafka.TransactionalIDAuthorizationFailed)
}

type initProducerRequest struct{ version int16 }

// ApiKey implements protocol.Message.
func (*initProducerRequest) ApiKey() protocol.ApiKey { return protocol.InitProducerId } //nolint:revive // the library's name

// Required implements protocol.RawExchanger; it receives the broker's supported versions.
func (r *initProducerRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.InitProducerId]
	return true
}

// RawExchange implements protocol.RawExchanger.
func (r *initProducerRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	const correlation = 1 // a connection has one request in flight, so any number is unique
	return protocol.RoundTrip(rw, r.version, correlation, "", &initproducerid.Request{
		TransactionTimeoutMs: 60_000, ProducerID: -1, ProducerEpoch: -1,
	})
}

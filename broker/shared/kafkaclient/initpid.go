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

// initProducerID asks any broker for a fresh producer id.
//
// kafka.Client.InitProducerID cannot be used for a producer without transactions: it first looks for the
// coordinator of the transaction "", which makes a real cluster create its transaction log, and fails
// where that log cannot be replicated. A RawExchanger goes to any broker.
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

// noIdempotence reports that a cluster does not give out producer ids: too old, or (before Kafka 3.0)
// without the IdempotentWrite permission. Delivery is at-least-once then all the same.
func noIdempotence(err error) bool {
	return errors.Is(err, kafka.UnsupportedVersion) || errors.Is(err, kafka.ClusterAuthorizationFailed) ||
		errors.Is(err, kafka.TransactionalIDAuthorizationFailed)
}

type initProducerRequest struct{ version int16 }

// ApiKey implements protocol.Message.
func (*initProducerRequest) ApiKey() protocol.ApiKey { return protocol.InitProducerId } //nolint:revive // the library's name

// Required implements protocol.RawExchanger; it learns the version that the broker understands.
func (r *initProducerRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.InitProducerId]
	return true
}

// RawExchange implements protocol.RawExchanger.
func (r *initProducerRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	const correlation = 1 // one request is in flight on a connection, so any number will do
	return protocol.RoundTrip(rw, r.version, correlation, "", &initproducerid.Request{
		TransactionTimeoutMs: 60_000, ProducerID: -1, ProducerEpoch: -1,
	})
}

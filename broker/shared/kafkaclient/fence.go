package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"cellgate/broker/shared/remote"
)

// identity is the producer id shared by the writers of a producer with a transactional id. No transaction is ever
// committed under it: the cluster gives the id to one producer at a time and fences the previous one.
type identity struct {
	mu    sync.Mutex
	state producerState
	known bool
	lost  error // another producer has it
}

// markerPause is the pause between two checks whether a cluster has ended a transaction.
const markerPause = 20 * time.Millisecond

// shared returns the producer's id, and a new one if refused is the current one.
func (p *Producer) shared(ctx context.Context, refused *producerState) (producerState, error) {
	p.identity.mu.Lock()
	defer p.identity.mu.Unlock()
	now := p.identity.state
	if p.identity.lost != nil {
		return producerState{}, p.identity.lost
	}
	if p.identity.known && (refused == nil || now.id != refused.id || now.epoch != refused.epoch) {
		return producerState{id: now.id, epoch: now.epoch}, nil
	}
	err := p.renewLocked(ctx)
	now = p.identity.state
	return producerState{id: now.id, epoch: now.epoch}, err
}

// superseded records that a leader knows a later epoch: another producer has taken over. From then on nothing is
// written, and the id is not requested again, because that would fence the other producer.
func (p *Producer) superseded(state *producerState, err error) {
	if p.o.TransactionalID == "" || (!errors.Is(err, kafka.InvalidProducerEpoch) && !errors.Is(err, kafka.ProducerFenced)) {
		return
	}
	p.identity.mu.Lock()
	defer p.identity.mu.Unlock()
	if p.identity.known && p.identity.state.epoch <= state.epoch {
		p.identity.lost = fmt.Errorf("another producer has taken over the transactional id %s: %w", p.o.TransactionalID, err)
	}
}

// renewLocked requests the id or its next epoch. The cluster refuses if another producer has taken over.
func (p *Producer) renewLocked(ctx context.Context) error {
	c := p.client.take()
	defer c.release()
	req := &kafka.InitProducerIDRequest{TransactionalID: p.o.TransactionalID, TransactionTimeoutMs: 60_000, ProducerID: -1, ProducerEpoch: -1}
	if p.identity.known {
		req.ProducerID, req.ProducerEpoch = int(p.identity.state.id), int(p.identity.state.epoch)
	}
	for {
		res, err := c.InitProducerID(ctx, req)
		if err == nil {
			err = res.Error
		}
		if errors.Is(err, kafka.ConcurrentTransactions) && remote.Pause(ctx, markerPause) {
			continue
		}
		if err != nil {
			return fmt.Errorf("ask for the producer id of %s: %w", p.o.TransactionalID, err)
		}
		p.identity.state, p.identity.known = producerState{id: int64(res.Producer.ProducerID), epoch: int16(res.Producer.ProducerEpoch)}, true
		return nil
	}
}

// Fence prevents previous owners of the transactional id from writing to a topic: the leaders of its partitions learn
// this producer's epoch from the markers of an empty transaction. It returns the number of partitions, 0 for a missing
// topic.
func (p *Producer) Fence(ctx context.Context, topic string) (partitions int, err error) {
	c := p.o.client([]string{topic})
	defer closeIdle(c)
	m, err := c.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, fmt.Errorf("fence %s: %w", topic, err)
	}
	var all []kafka.AddPartitionToTxn
	for _, t := range m.Topics {
		if t.Error != nil && !errors.Is(t.Error, kafka.UnknownTopicOrPartition) {
			return 0, fmt.Errorf("fence %s: %w", topic, t.Error)
		}
		for _, part := range t.Partitions {
			all = append(all, kafka.AddPartitionToTxn{Partition: part.ID})
		}
	}
	if len(all) == 0 {
		return 0, nil
	}
	p.identity.mu.Lock()
	defer p.identity.mu.Unlock()
	if !p.identity.known {
		if err := p.renewLocked(ctx); err != nil {
			return 0, err
		}
	}
	if err := p.markLocked(ctx, c, topic, all); err != nil {
		return 0, fmt.Errorf("fence %s: %w", topic, err)
	}
	return len(all), p.renewLocked(ctx) // which waits until the markers are written
}

// markLocked begins a transaction with the partitions, and aborts it.
func (p *Producer) markLocked(ctx context.Context, c *kafka.Client, topic string, all []kafka.AddPartitionToTxn) error {
	id, epoch := int(p.identity.state.id), int(p.identity.state.epoch)
	for {
		res, err := c.AddPartitionsToTxn(ctx, &kafka.AddPartitionsToTxnRequest{
			TransactionalID: p.o.TransactionalID, ProducerID: id, ProducerEpoch: epoch, Topics: map[string][]kafka.AddPartitionToTxn{topic: all},
		})
		if err == nil {
			for _, part := range res.Topics[topic] {
				err = errors.Join(err, part.Error)
			}
		}
		if errors.Is(err, kafka.ConcurrentTransactions) && remote.Pause(ctx, markerPause) {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	res, err := c.EndTxn(ctx, &kafka.EndTxnRequest{TransactionalID: p.o.TransactionalID, ProducerID: id, ProducerEpoch: epoch})
	if err == nil {
		err = res.Error
	}
	return err
}

package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"cellgate/broker/command"
	"cellgate/broker/session"
	"cellgate/configs"
	"cellgate/rules/sink/kafkaclient"
)

// Kafka topics of commands.
const (
	topicCommands = "vehicle.commands"
	topicResults  = "vehicle.command-results"
)

// deliverer lets the command service send through the one delivery engine.
type deliverer struct{ sessions *session.Manager }

// Ready implements command.Deliverer.
func (d deliverer) Ready(vin string) (version byte, ok bool) {
	info, known := d.sessions.Get(vin)
	return info.Version, known && info.Ready
}

// Deliver implements command.Deliverer. The command service has a store of its own, so the session need not
// keep the message on disk.
func (d deliverer) Deliver(vin string, c *command.Delivery) error {
	err := d.sessions.Deliver(vin, &session.Delivery{
		Topic: c.Topic, Payload: c.Payload, Props: c.Props, Expires: c.Expires,
		Sent: c.Sent, Acked: c.Acked, Failed: func(err error) { c.Failed(undeliverable(err)) },
	})
	return undeliverable(err)
}

// undeliverable marks the errors that no later try can mend.
func undeliverable(err error) error {
	if errors.Is(err, session.ErrTooLarge) {
		return errors.Join(command.ErrUndeliverable, err)
	}
	return err
}

// results takes the changes of commands' states to Kafka.
type results struct {
	cell, node string
	producer   *kafkaclient.Producer
}

// Publish implements command.Publisher.
func (r *results) Publish(ctx context.Context, events []command.Event) error {
	done := make(chan error, len(events))
	now := time.Now().UnixMilli()
	for i := range events {
		e := &events[i]
		headers := kafkaclient.AppendHeader(nil, "cell", r.cell)
		headers = kafkaclient.AppendHeader(headers, "vin", e.VIN)
		headers = kafkaclient.AppendHeader(headers, "msg-id", r.node+"-command-"+strconv.FormatUint(e.N, 10))
		headers = kafkaclient.AppendHeader(headers, "content-type", "application/json")
		r.producer.Produce(&kafkaclient.Record{
			Topic: topicResults, Key: []byte(e.VIN), Value: e.Value, Headers: headers, HeaderCount: 4, Time: now,
			Done: kafkaclient.CompletionFunc(func(_ *kafkaclient.Record, err error) { done <- err }),
		})
	}
	var failed error
	for range events {
		select {
		case err := <-done:
			failed = errors.Join(failed, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return failed
}

// inbox reads commands from Kafka in a consumer group, so that several gateways share the work.
type inbox struct {
	reader *kafka.Reader
	held   []kafka.Message
}

const (
	inboxBatch = 200
	// inboxWait is how long a batch waits for more after its first record.
	inboxWait = 10 * time.Millisecond
)

func newInbox(c *configs.Config, log *slog.Logger) (*inbox, error) {
	dialer, err := kafkaDialer("kafka", &c.Kafka)
	if err != nil {
		return nil, err
	}
	complain := kafka.LoggerFunc(func(format string, args ...any) {
		log.Debug("reading vehicle.commands", slog.String("kafka", fmt.Sprintf(format, args...)))
	})
	return &inbox{reader: kafka.NewReader(kafka.ReaderConfig{
		Brokers: c.Kafka.Brokers, Topic: topicCommands, GroupID: c.Commands.FromKafkaGroup, Dialer: dialer,
		MaxWait: 500 * time.Millisecond, StartOffset: kafka.FirstOffset, WatchPartitionChanges: true, ErrorLogger: complain,
	})}, nil
}

// Fetch implements command.Consumer.
func (i *inbox) Fetch(ctx context.Context) ([]command.Message, error) {
	i.held = i.held[:0]
	for len(i.held) < inboxBatch {
		m, err := i.fetch(ctx, len(i.held) > 0)
		if err != nil {
			if len(i.held) > 0 && ctx.Err() == nil {
				break
			}
			return nil, err
		}
		i.held = append(i.held, m)
	}
	out := make([]command.Message, len(i.held))
	for n, m := range i.held {
		out[n] = command.Message{Ref: fmt.Sprintf("kafka-%d-%d", m.Partition, m.Offset), At: m.Time, Value: m.Value}
	}
	return out, nil
}

func (i *inbox) fetch(ctx context.Context, more bool) (kafka.Message, error) {
	if more {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, inboxWait)
		defer cancel()
	}
	return i.reader.FetchMessage(ctx)
}

// Commit implements command.Consumer.
func (i *inbox) Commit(ctx context.Context) error {
	if len(i.held) == 0 {
		return nil
	}
	return i.reader.CommitMessages(ctx, i.held...)
}

func (i *inbox) close() error { return i.reader.Close() }

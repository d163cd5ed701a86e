package app

import (
	"cellgate/configs"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafka"
	"cellgate/rules/sink/kafkaclient"
	"cellgate/rules/sink/redis"
	"cellgate/rules/sink/remote"
)

// Names of the sinks, in the ledger and in metrics.
const (
	sinkKafka   = "kafka"
	sinkCentral = "central"
)

// sinks makes the sinks with their settings. The central sink writes to the cell's own Kafka: whether a
// centre is configured decides only whether somebody empties the outbox topics.
func (a *App) sinks() ([]sink.Binding, error) {
	limits := sink.Limits{Messages: a.cfg.Rules.QueueMessages, Bytes: int64(a.cfg.Rules.QueueBytes)}
	full := &a.cfg.Rules.WhenFull
	cell, err := a.sinkProducer(sinkKafka)
	if err != nil {
		return nil, err
	}
	outbox, err := a.sinkProducer(sinkCentral)
	if err != nil {
		return nil, err
	}
	client, err := redisClient(&a.cfg.Redis)
	if err != nil {
		return nil, err
	}
	state, err := redis.New(redis.Options{Client: client, Pace: remote.NormalPace(), Log: a.log})
	if err != nil {
		return nil, err
	}
	bind := func(s sink.Sink, whenFull string) sink.Binding {
		return sink.Binding{Sink: s, Limits: limits, WhenFull: sink.WhenFull(whenFull), AgeOutBytes: a.journal.Stat().MaxBytes / configs.AgeOutShare}
	}
	return []sink.Binding{
		bind(kafka.New(kafka.Options{Producer: cell, Cell: a.cfg.Cell.ID}), full.Kafka),
		bind(state, full.Redis),
		bind(kafka.New(kafka.Options{Producer: outbox, Cell: a.cfg.Cell.ID, Outbox: true}), full.Central),
	}, nil
}

// sinkProducer makes a producer of a sink's own, so that one sink's backlog is not another's.
func (a *App) sinkProducer(name string) (*kafkaclient.Producer, error) {
	o, err := producerOptions("kafka", name, &a.cfg.Kafka, a.log, a.kafkaMetrics)
	if err != nil {
		return nil, err
	}
	return kafkaclient.NewProducer(o)
}

package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafka"
	"cellgate/rules/sink/mqtt"
	"cellgate/rules/sink/redis"
	"cellgate/rules/sink/webhook"
	"cellgate/rules/state"
)

// outlets are the ways out: to the cell's Kafka and Redis, and to the centre.
type outlets struct {
	*trust
	kafka    *kafkaclient.Metrics
	producer *kafkaclient.Producer // of presence and command results
	sync     *centres
	settled  *settlement // nil unless PUBACKs wait for Kafka
	dispatch *sink.Dispatcher
	rules    *ruleKeeper
}

func openOutlets(t *trust) (*outlets, error) {
	m := kafkaclient.NewMetrics(t.reg.own)
	producer, err := t.openProducer(m)
	if err != nil {
		return nil, err
	}
	workers, err := t.openSync(m)
	if err != nil {
		return nil, err
	}
	dispatch, settled, err := t.openDispatch(m)
	if err != nil {
		return nil, err
	}
	keeper, err := newRuleKeeper(t, dispatch)
	if err != nil {
		return nil, err
	}
	if err := t.reg.own.Register(t.reloadReadings(keeper)); err != nil {
		return nil, err
	}
	return &outlets{trust: t, kafka: m, producer: producer, sync: workers, settled: settled, dispatch: dispatch, rules: keeper}, nil
}

func (t *trust) openProducer(m *kafkaclient.Metrics) (*kafkaclient.Producer, error) {
	o, err := producerOptions("kafka", "events", &t.cfg.Kafka, t.log, m)
	if err != nil {
		return nil, err
	}
	o.MissingTopicGrace = 0 // results wait for an operator who creates the topic
	producer, err := kafkaclient.NewProducer(o)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	producer.Prepare(topicPresence, topicResults)
	t.life.onStop("kafka producer", stopShort, func(ctx context.Context) error {
		if err := producer.Close(ctx); err != nil {
			t.log.Debug("records that Kafka has not taken are kept", slog.Any("err", err)) // in the outboxes of presence and results
		}
		return nil
	})
	return producer, nil
}

func (t *trust) openDispatch(m *kafkaclient.Metrics) (*sink.Dispatcher, *settlement, error) {
	bindings, err := t.sinks(m)
	if err != nil {
		return nil, nil, err
	}
	var settled *settlement
	if _, kafka := ackModes(&t.cfg.Uplink); kafka {
		settled = newSettlement(bindings)
		t.life.onStop("settlement", stopShort, settled.close)
	}
	data, bound := string(t.cfg.DataDir), t.journal.Stat().MaxBytes
	dispatch, err := sink.New(sink.Options{
		HashKeys: hashKeys(&t.cfg.Rules),
		Journal:  t.journal, DB: t.db, Dir: filepath.Join(data, "decisions"), OperatorDir: filepath.Join(data, "operators"),
		Cell: t.cfg.Cell.ID, Node: t.cfg.Cell.Node, Workers: evaluators(t.cfg.Rules.Workers), State: state.StateOptions{MaxVINs: t.cfg.Rules.MaxVINs, MaxVINBytes: configs.MaxVINBytes},
		CheckpointInterval: configs.CheckpointInterval, SegmentBytes: configs.DecisionSegmentBytes, LagAlarm: configs.SinkLagAlarm,
		FS: sink.Files(), Now: time.Now, TickInterval: configs.TickInterval,
		Parked: sink.ParkedLimits{
			Bytes: bound / configs.ParkedShare, DestinationBytes: bound / configs.ParkedShare / configs.ParkedShare,
			Destinations: configs.ParkedDestinations,
		},
		Sinks: bindings, ErrorTopic: t.cfg.Rules.ErrorTopic, OnFatal: t.die, Log: t.log, Trace: t.traces, Explain: explainSteps, Metrics: sink.NewMetrics(t.reg.own),
	})
	if err != nil {
		closeSinks(bindings)
		return nil, nil, err
	}
	t.life.onStop("dispatch", stopDispatch, t.life.patient("what the sinks have not taken", dispatch.Stop))
	return dispatch, settled, nil
}

// evaluators is on how many goroutines rules are evaluated.
func evaluators(configured int) int {
	if configured > 0 {
		return configured
	}
	return min(runtime.GOMAXPROCS(0), state.Shards)
}

// closeSinks ends sinks that no dispatcher has taken over.
func closeSinks(bindings []sink.Binding) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is under way
	for _, b := range bindings {
		_ = b.Sink.Close(ctx)
	}
}

// Names of the sinks, in the ledger and in metrics.
const (
	sinkKafka   = "kafka"
	sinkCentral = "central"
)

// outlet is a sink that is to be made.
type outlet struct {
	whenFull string
	open     func() (sink.Sink, error)
}

// sinks makes the sinks with their settings. The central sink writes to the cell's own Kafka: whether a
// centre is configured decides only whether somebody empties the outbox topics.
func (t *trust) sinks(m *kafkaclient.Metrics) ([]sink.Binding, error) {
	full := &t.cfg.Rules.WhenFull
	return t.bind([]outlet{
		{full.Kafka, func() (sink.Sink, error) { return t.kafkaSink(sinkKafka, kafka.Options{}, m) }},
		{full.Redis, t.redisSink},
		{full.Central, func() (sink.Sink, error) { return t.kafkaSink(sinkCentral, kafka.Options{Outbox: true}, m) }},
		{full.Webhook, t.webhookSink},
		// What it writes to must never be full of what waits for it: no more than its share is held back.
		{string(sink.AgeOut), t.mqttSink},
	})
}

// bind makes all of the sinks, or none.
func (t *trust) bind(outlets []outlet) (bindings []sink.Binding, err error) {
	for _, o := range outlets {
		s, err := o.open()
		if err != nil {
			closeSinks(bindings)
			return nil, err
		}
		bindings = append(bindings, sink.Binding{
			Sink: s, WhenFull: sink.WhenFull(o.whenFull), AgeOutBytes: t.journal.Stat().MaxBytes / configs.AgeOutShare,
			Limits: sink.Limits{Messages: t.cfg.Rules.QueueMessages, Bytes: int64(t.cfg.Rules.QueueBytes)},
		})
	}
	return bindings, nil
}

func (t *trust) redisSink() (sink.Sink, error) {
	client, err := redisClient(&t.cfg.Redis)
	if err != nil {
		return nil, err
	}
	return redis.New(redis.Options{Client: client, Pace: remote.NormalPace(), Log: t.log})
}

func (t *trust) mqttSink() (sink.Sink, error) {
	return mqtt.New(mqtt.Options{Journal: t.journal, Pace: remote.NormalPace(), Log: t.log})
}

func (t *trust) webhookSink() (sink.Sink, error) {
	o := webhook.Options{Cell: t.cfg.Cell.ID, Pace: remote.NormalPace(), Log: t.log, Metrics: webhook.NewMetrics(t.reg.own)}
	for _, name := range slices.Sorted(maps.Keys(t.cfg.Webhooks)) {
		w := t.cfg.Webhooks[name]
		e := webhook.Endpoint{Name: name, URL: w.URL, Timeout: w.Timeout.Std(), Requests: w.Requests}
		var err error
		if e.TLS, err = clientTLS("webhooks."+name+".tls", w.TLS); err != nil {
			return nil, err
		}
		for _, s := range w.Keys {
			key, err := configs.SigningKey(s)
			if err != nil {
				return nil, fmt.Errorf("webhooks.%s.keys: %w", name, err)
			}
			e.Keys = append(e.Keys, key)
		}
		for _, network := range w.PrivateNetworks {
			prefix, err := netip.ParsePrefix(network)
			if err != nil {
				return nil, fmt.Errorf("webhooks.%s.private_networks: %w", name, err)
			}
			e.PrivateNetworks = append(e.PrivateNetworks, prefix)
		}
		o.Endpoints = append(o.Endpoints, e)
	}
	return webhook.New(o)
}

// kafkaSink makes a sink with a producer of its own, so that one sink's backlog is not another's.
func (t *trust) kafkaSink(name string, k kafka.Options, m *kafkaclient.Metrics) (sink.Sink, error) {
	o, err := producerOptions("kafka", name, &t.cfg.Kafka, t.log, m)
	if err != nil {
		return nil, err
	}
	k.Cell = t.cfg.Cell.ID
	if k.Producer, err = kafkaclient.NewProducer(o); err != nil {
		return nil, err
	}
	return kafka.New(k), nil
}

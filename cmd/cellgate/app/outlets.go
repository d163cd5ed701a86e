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
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafka"
	"cellgate/rules/sink/mqtt"
	"cellgate/rules/sink/redis"
	"cellgate/rules/sink/webhook"
	"cellgate/rules/state"
)

// outlets adds delivery to the cell's Kafka and Redis and to the centre.
type outlets struct {
	*trust
	kafka    *kafkaclient.Metrics
	producer *kafkaclient.Producer // for presence and command results
	sync     *centres
	settled  *settlement // nil unless PUBACKs wait for Kafka
	dispatch *sink.Dispatcher
	rules    *ruleKeeper
	moves    *stateMoves // nil in a cell with one gateway
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
	t.losses.watchLedger(dispatch.Ledger)
	if err := dispatch.OperatorsLost(); err != nil {
		if err := t.losses.note(partOperators, "operator state of vehicles: "+err.Error()); err != nil {
			return nil, err
		}
	}
	if err := t.losses.save(); err != nil { // before a checkpoint is beyond what the journal does not have
		return nil, err
	}
	keeper, err := newRuleKeeper(t, dispatch)
	if err != nil {
		return nil, err
	}
	if err := t.reg.own.Register(t.reloadReadings(keeper)); err != nil {
		return nil, err
	}
	o := &outlets{trust: t, kafka: m, producer: producer, sync: workers, settled: settled, dispatch: dispatch, rules: keeper}
	if t.member != nil {
		o.moves = newStateMoves(t.peers, dispatch)
		t.claims.moves = o.moves
	}
	return o, nil
}

func (t *trust) openProducer(m *kafkaclient.Metrics) (*kafkaclient.Producer, error) {
	o, err := producerOptions("kafka", "events", &t.cfg.Kafka, t.log, m)
	if err != nil {
		return nil, err
	}
	o.MissingTopicGrace = 0 // results wait until an operator creates the topic
	producer, err := kafkaclient.NewProducer(o)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	producer.Prepare(topicPresence, topicResults)
	t.life.onStop("kafka producer", stopShort, func(ctx context.Context) error {
		if err := producer.Close(ctx); err != nil {
			t.log.Debug("records that Kafka has not accepted are kept", slog.Any("err", err)) // they are in the outboxes of presence and results
		}
		return nil
	})
	return producer, nil
}

func (t *trust) openDispatch(m *kafkaclient.Metrics) (*sink.Dispatcher, *settlement, error) {
	bindings, err := t.bind(outletList(), m)
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
		Rules: ruleOptions(t.cfg), Node: t.cfg.Cell.Node, Journal: t.journal, DB: t.db, Dir: filepath.Join(data, "decisions"), OperatorDir: filepath.Join(data, "operators"),
		Workers: evaluators(t.cfg.Rules.Workers), State: state.StateOptions{MaxVINs: t.cfg.Rules.MaxVINs, MaxVINBytes: configs.MaxVINBytes},
		CheckpointInterval: configs.CheckpointInterval, SegmentBytes: configs.DecisionSegmentBytes, LagAlarm: configs.SinkLagAlarm,
		FS: sink.Files(), Now: time.Now, TickInterval: configs.TickInterval,
		Parked: sink.ParkedLimits{
			Bytes: bound / configs.ParkedShare, DestinationBytes: bound / configs.ParkedShare / configs.ParkedShare,
			Destinations: configs.ParkedDestinations,
		},
		Sinks: bindings, OnFatal: t.fail, Log: t.log, Trace: t.traces, Explain: explainSteps, Metrics: sink.NewMetrics(t.reg.own),
	})
	if err != nil {
		closeSinks(bindings)
		return nil, nil, err
	}
	t.life.onStop("dispatch", stopDispatch, t.life.patient("what the sinks have not accepted", dispatch.Stop))
	return dispatch, settled, nil
}

// evaluators returns the number of goroutines that evaluate rules.
func evaluators(configured int) int {
	if configured > 0 {
		return configured
	}
	return min(runtime.GOMAXPROCS(0), state.Shards)
}

// closeSinks closes sinks that no dispatcher has taken over.
func closeSinks(bindings []sink.Binding) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is under way
	for _, b := range bindings {
		_ = b.Sink.Close(ctx)
	}
}

// outlet is a target of the rule language and the sink that delivers it.
type outlet struct {
	target   *op.Target
	whenFull func(w *configs.WhenFull) string
	open     func(t *trust, m *kafkaclient.Metrics) (sink.Sink, error)
}

// outletList returns all outlets. The central sink writes to the cell's own Kafka: the section central decides only
// whether the outbox topics are forwarded.
func outletList() []outlet {
	return []outlet{
		{&op.Kafka, func(w *configs.WhenFull) string { return w.Kafka }, kafkaSink(op.SinkKafka, kafka.Options{})},
		{&op.Redis, func(w *configs.WhenFull) string { return w.Redis }, redisSink},
		{&op.Central, func(w *configs.WhenFull) string { return w.Central }, kafkaSink(op.SinkCentral, kafka.Options{Outbox: true})},
		{&webhook.Target, func(w *configs.WhenFull) string { return w.Webhook }, webhookSink},
		// This sink appends to the journal, which must not fill up with what waits for the sink: beyond its share, old
		// messages age out.
		{&op.MQTT, ageOut, mqttSink},
	}
}

// ageOut is when_full of outlets that the configuration does not mention.
func ageOut(*configs.WhenFull) string { return string(sink.AgeOut) }

// Targets returns the targets that rules may send to.
func Targets() (all op.Targets) {
	for _, o := range outletList() {
		all = append(all, o.target)
	}
	return all
}

// bind makes the sinks of all outlets, or none.
func (t *trust) bind(outlets []outlet, m *kafkaclient.Metrics) (bindings []sink.Binding, err error) {
	for _, o := range outlets {
		s, err := o.open(t, m)
		if err != nil {
			closeSinks(bindings)
			return nil, err
		}
		bindings = append(bindings, sink.Binding{
			Sink: s, WhenFull: sink.WhenFull(o.whenFull(&t.cfg.Rules.WhenFull)), AgeOutBytes: t.journal.Stat().MaxBytes / configs.AgeOutShare,
			Limits: sink.Limits{Messages: t.cfg.Rules.QueueMessages, Bytes: int64(t.cfg.Rules.QueueBytes)},
		})
	}
	return bindings, nil
}

func redisSink(t *trust, _ *kafkaclient.Metrics) (sink.Sink, error) {
	client, err := t.redis.client(&t.cfg.Redis)
	if err != nil {
		return nil, err
	}
	return redis.New(redis.Options{Client: client, Pace: remote.NormalPace(), Log: t.log})
}

func mqttSink(t *trust, _ *kafkaclient.Metrics) (sink.Sink, error) {
	return mqtt.New(mqtt.Options{Journal: t.journal, Pace: remote.NormalPace(), Log: t.log})
}

func webhookSink(t *trust, _ *kafkaclient.Metrics) (sink.Sink, error) {
	o := webhook.Options{Cell: t.cfg.Cell.ID, Sampling: t.sampling, Pace: remote.NormalPace(), Log: t.log, Metrics: webhook.NewMetrics(t.reg.own)}
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

// kafkaSink makes a sink with its own producer, so that the backlog of one sink does not delay another.
func kafkaSink(name op.SinkKind, k kafka.Options) func(*trust, *kafkaclient.Metrics) (sink.Sink, error) {
	return func(t *trust, m *kafkaclient.Metrics) (sink.Sink, error) {
		o, err := producerOptions("kafka", string(name), &t.cfg.Kafka, t.log, m)
		if err != nil {
			return nil, err
		}
		k.Cell, k.Sampling = t.cfg.Cell.ID, t.sampling
		if k.Producer, err = kafkaclient.NewProducer(o); err != nil {
			return nil, err
		}
		return kafka.New(k), nil
	}
}

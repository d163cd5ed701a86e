package app

import (
	"context"
	"errors"
	"log/slog"
	"strconv"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/configs"
)

// topicPresence carries connects and disconnects of vehicles, ordered per VIN.
const topicPresence = "vehicle.presence"

// openPresence makes the outbox for the presence that sessions report.
func (o *outlets) openPresence(sessions *session.Manager) (*presence.Outbox, error) {
	epoch, err := o.clock.presenceEpoch()
	if err != nil {
		return nil, err
	}
	t := &presenceTopic{cell: o.cfg.Cell.ID, node: o.cfg.Cell.Node, producer: o.producer, log: o.log, numbers: o.numbers}
	options := presence.Options{
		DB: o.db, Epoch: epoch, Shared: o.numbers != nil, Grace: o.cfg.Presence.Grace.Std(), Publish: t.publish, Wall: o.clock.Wall,
		MaxWaiting: configs.MaxPresenceWaiting, MaxVehicles: configs.MaxPresenceVehicles, Log: o.log, Metrics: presence.NewMetrics(o.reg.own),
	}
	if o.cfg.Presence.Redis {
		client, err := o.redis.client(&o.cfg.Redis)
		if err != nil {
			return nil, err
		}
		o.life.onStop("redis of presence", stopShort, func(context.Context) error { return client.Close() })
		options.Mirror = (&presenceKeys{client, t.cell, t.node}).write
	}
	outbox, err := presence.Open(options)
	if err != nil {
		return nil, err
	}
	outbox.Start()
	o.life.onStop("presence", stopShort, o.life.patient("presence that Kafka has not accepted", outbox.Close))
	if o.numbers == nil {
		sessions.OnPresence(func(p session.Presence) {
			report(outbox, &p)
			o.watchPresence(&p)
		})
		return outbox, nil
	}
	o.numbers.outbox = outbox
	o.numbers.begin(outbox.Left())
	sessions.OnPresence(func(p session.Presence) {
		if p.Vehicle {
			o.claims.presenceReported(&p)
		}
		o.watchPresence(&p)
	})
	return outbox, nil
}

// report adds an event of a session to the outbox. The session manager calls it in order per client.
func report(outbox *presence.Outbox, p *session.Presence) {
	if p.Vehicle {
		outbox.Report(p.Key, kindOf(p), p.At, string(p.Reason))
	}
}

func kindOf(p *session.Presence) presence.Kind {
	switch {
	case p.Ready:
		return presence.Ready
	case p.Connected:
		return presence.Connected
	}
	return presence.Disconnected
}

// presenceTopic publishes presence to Kafka.
type presenceTopic struct {
	cell, node string
	producer   *kafkaclient.Producer
	log        *slog.Logger
	numbers    *cellPresence // nil in a cell with one gateway
}

// publish is presence.Options.Publish. It drops an event that Kafka will never accept.
func (p *presenceTopic) publish(ctx context.Context, events []presence.Event) (refused int, err error) {
	records := make([]kafkaclient.Record, len(events))
	for i := range events {
		e := &events[i]
		value, err := e.Value(p.cell, p.node)
		if err != nil {
			return 0, err
		}
		headers := kafkaclient.AppendHeader(nil, "cell", p.cell)
		headers = kafkaclient.AppendHeader(headers, "vin", e.VIN)
		records[i] = kafkaclient.Record{Topic: topicPresence, Key: []byte(e.VIN), Value: value, Headers: headers, HeaderCount: 2, Time: e.At}
	}
	never, err := produceAll(ctx, p.producer, records)
	if err == nil && len(never) > 0 {
		p.log.Error("Kafka refuses presence events; they are dropped", slog.Int("events", len(never)), slog.Any("err", never[0]))
	}
	if err == nil && p.numbers != nil {
		p.numbers.published(ctx, events)
	}
	return len(never), err
}

// produceAll returns once Kafka has accepted each record or refused it permanently (refused). After an error further
// records may be missing.
func produceAll(ctx context.Context, producer *kafkaclient.Producer, records []kafkaclient.Record) (refused []error, err error) {
	done := make(chan error, len(records))
	for i := range records {
		records[i].Done = kafkaclient.CompletionFunc(func(_ *kafkaclient.Record, err error) { done <- err })
		producer.Produce(&records[i])
	}
	for range records {
		select {
		case failed := <-done:
			if errors.Is(failed, kafkaclient.ErrRefused) {
				refused = append(refused, failed)
			} else {
				err = errors.Join(err, failed)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return refused, err
}

// presenceKeys writes the hashes presence:{VIN} in Redis, for example presence:LTEST000000000001.
type presenceKeys struct {
	client     redis.UniversalClient
	cell, node string
}

// presenceScript writes an event unless a later one is stored. ARGV: epoch, seq, milliseconds to keep it (0 without
// limit), and the other fields with their values.
const presenceScript = `
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or -1)
if epoch > tonumber(ARGV[1]) then return 0 end
if epoch == tonumber(ARGV[1]) and tonumber(redis.call('HGET', KEYS[1], 'seq') or -1) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', ARGV[2], unpack(ARGV, 4))
if ARGV[3] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1`

// write is presence.Options.Mirror.
func (k *presenceKeys) write(ctx context.Context, events []presence.Event) error {
	pipe := k.client.Pipeline()
	for i := range events {
		e := &events[i]
		keep := int64(0)
		if e.Kind == presence.Disconnected {
			keep = configs.PresenceKeep.Milliseconds()
		}
		pipe.Eval(ctx, presenceScript, []string{"presence:" + e.VIN},
			strconv.FormatInt(e.Epoch, 10), strconv.FormatUint(e.Seq, 10), strconv.FormatInt(keep, 10),
			"vin", e.VIN, "cell", k.cell, "node", k.node, "event", e.Kind.String(), "at", e.Time(), "reason", e.Reason)
	}
	_, err := pipe.Exec(ctx)
	return err
}

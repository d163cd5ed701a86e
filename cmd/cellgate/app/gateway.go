package app

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"cellgate/broker"
	"cellgate/cmd/cellgate/console"
)

// gateway serves clients and the API.
type gateway struct {
	*clients
	drain        *drainer
	certificates *certificates
	broker       *broker.Broker
	fanout       *broker.Fanout
	intake       *broker.Intake

	messages *messageTail
	drafts   *places               // for concurrent explanations
	reading  redis.UniversalClient // for reading what rules have written
	console  *console.Console      // nil when off
	measured *httpMetrics
}

func openGateway(c *clients) (*gateway, error) {
	drain := &drainer{}
	o, err := c.brokerOptions(drain)
	if err != nil {
		return nil, err
	}
	b, err := broker.New(o)
	if err != nil {
		return nil, err
	}
	certificates, err := openCertificates(c.cfg, c.clock.Wall, c.log)
	if err != nil {
		return nil, err
	}
	fanout, intake, err := c.openLoops()
	if err != nil {
		return nil, err
	}
	reading, err := c.redis.client(&c.cfg.Redis)
	if err != nil {
		return nil, err
	}
	c.life.onStop("redis of the API", stopShort, func(context.Context) error { return reading.Close() })
	g := &gateway{
		clients: c, drain: drain, certificates: certificates, broker: b, fanout: fanout, intake: intake,
		messages: &messageTail{journal: c.journal, hub: c.hub, log: c.log}, reading: reading,
		drafts: newPlaces(maxExplanations), measured: newHTTPMetrics(c.reg.own),
	}
	return g, errors.Join(c.reg.own.Register(certificates.readings()), c.reg.own.Register(g.readyReadings()), c.reg.own.Register(g.limitReadings()))
}

// startDispatch puts the rules in force before anything can be published, and starts delivery.
func (o *outlets) startDispatch(ctx context.Context) error {
	if o.moves != nil {
		o.startStateMoves(ctx)
	}
	if err := o.dispatch.Start(); err != nil {
		return err
	}
	return o.rules.begin(ctx)
}

func (a *gateway) startBroker(ctx context.Context) error {
	if err := a.broker.Start(ctx); err != nil {
		return err
	}
	a.life.onStop("drain", stopShort, func(context.Context) error { a.drain.end(); return nil })
	a.life.onStop("listeners", stopClients, func(ctx context.Context) error {
		reason, endpoint := a.drain.disconnectReason()
		a.pointAll(endpoint, "shutdown")
		return a.broker.Stop(ctx, reason, endpoint)
	})
	return nil
}

// startBackground starts what nothing waits for: the disk ladder, commands from Kafka, the sync worker, the watch on
// the rules.
func (a *gateway) startBackground() error {
	a.background("state file watch", a.db.Watch)
	a.background("certificates", a.certificates.run)
	a.background("losses", a.losses.run)
	a.background("previous presence", a.presence.Expire)
	a.background("clock", func(ctx context.Context) { a.clock.run(ctx, a.journal) })
	a.background("disk ladder", func(ctx context.Context) { a.ladder.run(ctx, a.Config) })
	if a.cfg.Commands.FromKafka {
		if err := a.startInbox(); err != nil {
			return err
		}
	}
	a.sync.start()
	if a.cfg.Rules.Watch {
		a.background("rules watch", a.rules.watch)
	}
	purges := newPurges(a.sessions.PurgeOwned, a.commands, a.log)
	a.auth.WatchPurges(purges.add)
	a.background("purges", purges.run)
	a.auth.WatchEnded(a.gate.Ended)
	if a.console != nil {
		a.background("console", a.console.Sample)
	}
	return nil
}

package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"cellgate/auth"
	"cellgate/auth/spread"
	"cellgate/broker"
	"cellgate/broker/clock"
	"cellgate/broker/command"
	"cellgate/broker/journal"
	"cellgate/broker/message"
	"cellgate/broker/session"
	"cellgate/broker/statefile"
	"cellgate/configs"
	"cellgate/configs/authority"
	"cellgate/rules"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafkaclient"
	syncer "cellgate/sync"
)

// parts are what a gateway consists of, in the order of their construction.
type parts struct {
	cfg   *configs.Config // as it was at the start; reloadable keys are read from App.Config
	log   *slog.Logger
	level *slog.LevelVar
	reg   *registry

	descriptors  descriptors
	missing      *prometheus.CounterVec // of the start, by part of data_dir
	fresh        bool                   // there was no state.db
	source       clock.Source           // the machine's clocks
	db           *statefile.DB
	clock        *timekeeper
	journal      *journal.Journal
	ladder       *ladder
	redis        redis.UniversalClient
	audit        *auth.Audit
	auth         *auth.Authority
	vehicleCAs   pool
	kafkaMetrics *kafkaclient.Metrics
	producer     *kafkaclient.Producer // of presence and command results
	sync         *syncer.Syncer        // nil without a centre
	settlement   *settlement           // nil unless PUBACKs wait for Kafka
	dispatch     *sink.Dispatcher
	rules        *ruleKeeper
	index        *broker.Index
	sessions     *session.Manager
	commands     *command.Service
	broker       *broker.Broker
	brokerStats  *broker.Metrics
	fanout       *broker.Fanout
	intake       *broker.Intake
	http         *server
	tokenAPI     *server // nil when off
}

// Time limits of the stops. In all they stay within the five seconds of a Ctrl-C unless a disk hangs.
const (
	stopShort    = time.Second
	stopClients  = 3 * time.Second
	stopDispatch = 2 * time.Second
	stopDisk     = 10 * time.Second
)

func (a *App) openState(context.Context) error {
	a.missing = newMissing(a.reg.own)
	_, err := os.Stat(filepath.Join(string(a.cfg.DataDir), "state.db"))
	a.fresh = errors.Is(err, fs.ErrNotExist)
	db, err := openState(string(a.cfg.DataDir), a.die)
	if err != nil {
		return err
	}
	a.db = db
	a.life.onStop("state file", stopDisk, closeState(db))
	reportFallBack(db.FellBack(), a.reg.own, a.log)
	return nil
}

func (a *App) openClock(context.Context) (err error) {
	a.clock, err = openTimekeeper(a.db, a.source, a.log)
	return err
}

// opening holds the whole journal until all its consumers have said where they are.
const opening = "opening"

func (a *App) openJournal(context.Context) error {
	j := &a.cfg.Uplink.Journal
	age := j.MaxAge.Std()
	if age == 0 || age > configs.JournalSegmentAge {
		age = configs.JournalSegmentAge
	}
	epoch, last, err := journalKnown(a.db)
	if err != nil {
		return err
	}
	opened, found, err := journal.Open(journal.Options{
		KnownEpoch: epoch, KnownLast: last, Machine: journal.ThisMachine(a.source), Jump: max(a.clock.jump, 0), OnStep: a.clock.stepped,
		Dir: string(j.Dir), SegmentBytes: int64(j.SegmentBytes), MaxBytes: holdBytes(int64(j.MaxBytes), int64(j.SegmentBytes), j.HoldPercent), ReserveBytes: int64(j.ReserveBytes), SegmentAge: age,
		CommitInterval: j.CommitInterval.Std(), BufferBytes: int(j.BufferBytes), OnFatal: a.die,
		Log: a.log, Metrics: journal.NewMetrics(a.reg.own),
	})
	if err != nil {
		return fmt.Errorf("uplink.journal: %w", err)
	}
	a.journal = opened
	switch {
	case a.fresh && !found.Created:
		a.reportMissing("state", "sessions, queued messages and commands are gone, the ledger begins at the first record that the journal has, "+
			"and that is where delivery begins again")
	case found.Created && epoch != 0:
		a.reportMissing("journal", "what was pending is counted as lost")
	}
	// The journal recycles what every consumer that has spoken is past. Nobody has spoken yet: without this
	// the first one would give away what the others have not read.
	opened.Retain(opening, opened.First())
	a.life.onStop("journal", stopDisk, opened.Close)
	a.ladder = newLadder(j, string(a.cfg.DataDir), opened, a.reg.own, a.log)
	return nil
}

func (a *App) openRedis(context.Context) error {
	client, err := redisClient(&a.cfg.Redis)
	if err != nil {
		return err
	}
	a.redis = client
	a.life.onStop("redis", stopShort, func(context.Context) error { return client.Close() })
	return nil
}

func (a *App) openAuth(context.Context) error {
	m := auth.NewMetrics(a.reg.own)
	a.audit = authority.AuditLog(a.cfg, a.log, m)
	a.life.onStop("audit log", stopShort, func(context.Context) error { return a.audit.Close() })
	cas, err := loadVehicleCAs(a.cfg)
	if err != nil {
		return err
	}
	a.vehicleCAs.pool.Store(cas)
	c := authority.Config(a.cfg)
	c.Audit, c.Log, c.Metrics, c.Now, c.Trusted = a.audit, a.log, m, a.clock.Wall, a.clock.Trusted
	c.VehicleCAs = a.vehicleCAs.get
	if key := a.cfg.Auth.Revocation.RedisKey; key != "" {
		c.Revocations = spread.NewRedis(a.redis, key, a.cfg.Cell.ID)
	}
	if keys, _ := filepath.Glob(filepath.Join(c.Dir, "key-*.json")); len(keys) == 0 && !a.fresh { // the pattern is a good one
		a.reportMissing("keys", "every token that was issued before is refused from now on")
	}
	if a.auth, err = auth.Open(c); err != nil {
		return err
	}
	a.life.onStop("auth", stopShort, a.auth.Close)
	return nil
}

func (a *App) openProducer(context.Context) error {
	a.kafkaMetrics = kafkaclient.NewMetrics(a.reg.own)
	o, err := producerOptions("kafka", "events", &a.cfg.Kafka, a.log, a.kafkaMetrics)
	if err != nil {
		return err
	}
	o.MissingTopicGrace = 0 // results wait for an operator who creates the topic
	if a.producer, err = kafkaclient.NewProducer(o); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	a.producer.Prepare(topicPresence, topicResults)
	a.life.onStop("kafka producer", stopShort, func(ctx context.Context) error {
		if err := a.producer.Close(ctx); err != nil {
			a.log.Warn("presence events were given up", slog.Any("error", err)) // results are kept in the outbox
		}
		return nil
	})
	return nil
}

func (a *App) openDispatch(context.Context) error {
	bindings, err := a.sinks()
	if err != nil {
		return err
	}
	if _, kafka := ackModes(&a.cfg.Uplink); kafka {
		a.settlement = newSettlement(bindings)
		a.life.onStop("settlement", stopShort, a.settlement.close)
	}
	data, bound := string(a.cfg.DataDir), a.journal.Stat().MaxBytes
	a.dispatch, err = sink.New(sink.Options{
		Journal: a.journal, DB: a.db, Dir: filepath.Join(data, "decisions"), OperatorDir: filepath.Join(data, "operators"),
		Cell: a.cfg.Cell.ID, Node: a.cfg.Cell.Node, State: rules.StateOptions{MaxVINs: a.cfg.Rules.MaxVINs, MaxVINBytes: configs.MaxVINBytes},
		CheckpointInterval: configs.CheckpointInterval, SegmentBytes: configs.DecisionSegmentBytes, LagAlarm: configs.SinkLagAlarm, FS: sink.Files(),
		Parked: sink.ParkedLimits{
			Bytes: bound / configs.ParkedShare, DestinationBytes: bound / configs.ParkedShare / configs.ParkedShare,
			Destinations: configs.ParkedDestinations,
		},
		Sinks: bindings, ErrorTopic: a.cfg.Rules.ErrorTopic, OnFatal: a.die, Log: a.log, Metrics: sink.NewMetrics(a.reg.own),
	})
	if err != nil {
		closeSinks(bindings)
		return err
	}
	a.life.onStop("dispatch", stopDispatch, a.life.patient("what the sinks have not taken", a.dispatch.Stop))
	return nil
}

// closeSinks ends sinks that no dispatcher has taken over.
func closeSinks(bindings []sink.Binding) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is under way
	for _, b := range bindings {
		_ = b.Sink.Close(ctx)
	}
}

func (a *App) openRules(context.Context) (err error) {
	if a.rules, err = newRuleKeeper(a); err != nil {
		return err
	}
	return a.reg.own.Register(a.reloadReadings())
}

// startDispatch puts the rules in force before anything can be published, and begins to deliver.
func (a *App) startDispatch(ctx context.Context) error {
	if err := a.dispatch.Start(); err != nil {
		return err
	}
	return a.rules.begin(ctx)
}

func (a *App) openSessions(context.Context) (err error) {
	a.brokerStats = broker.NewMetrics(a.reg.own)
	a.index = broker.NewIndex()
	a.sessions, err = session.Open(session.Options{
		DB: a.db, Index: a.index, Journal: sessionJournal{a.journal}, Issuer: a.cfg.Auth.Issuer, Now: a.clock.Now, Wall: a.clock.Wall, Log: a.log, Metrics: session.NewMetrics(a.reg.own),
		Rejected: a.rejected, Bounds: sessionBounds(a.cfg), DiskShort: a.ladder.reserveShort,
		CommitInterval: configs.SessionCommitInterval,
	})
	if err != nil {
		return err
	}
	a.index.PreferConnected(a.sessions.Connected)
	a.life.onStop("sessions", stopDisk, a.sessions.Close)
	return nil
}

func sessionBounds(c *configs.Config) session.Bounds {
	s := &c.Sessions
	overflow := session.DropNewest
	if s.WhenFull == "drop_old" {
		overflow = session.DropOldest
	}
	return session.Bounds{
		MaxQueuedMessages: s.MaxQueuedMessages, MaxQueuedBytes: int64(s.MaxQueuedBytes), Overflow: overflow,
		MaxSubscriptions: s.MaxSubscriptions, MaxInflight: s.MaxInflight,
		MaxPerSubject: s.MaxPerSubject, MaxSubscriptionsPerSubject: s.MaxSubscriptionsPerSubject,
		MaxQueuedBytesPerSubject: int64(s.MaxQueuedBytesPerSubject), MaxRetainedPerSubject: s.MaxRetainedPerSubject, MaxTopicLevels: c.Limits.MaxTopicLevels, MaxTotalBytes: configs.MaxTotalQueuedBytes,
		MaxRetainedMessages: s.MaxRetainedMessages, MaxRetainedBytes: int64(s.MaxRetainedBytes), MaxExpiry: s.MaxExpiry.Std(),
	}
}

func (a *App) rejected(reason string) { a.brokerStats.Rejected.WithLabelValues(reason).Inc() }

// sessionJournal gives the sessions the journal without its waiters: nobody waits for a will.
type sessionJournal struct{ *journal.Journal }

// Append implements session.Journal.
func (j sessionJournal) Append(recs []message.Record) (uint64, error) {
	return j.Journal.Append(recs, nil)
}

func (a *App) openCommands(context.Context) (err error) {
	c := &a.cfg.Commands
	a.commands, err = command.Open(command.Options{
		DB: a.db, Deliverer: deliverer{a.sessions}, Publish: (&results{a.cfg.Cell.ID, a.cfg.Cell.Node, a.producer}).publish,
		Clock: a.clock.Clock, Respond: a.respond, Log: a.log, Metrics: command.NewMetrics(a.reg.own), Refused: a.rejected, Audit: a.auditCommand, KafkaMay: a.kafkaMay(), Envelope: c.EnvelopeFor311,
		DefaultTTL: c.DefaultTTL.Std(), MaxTTL: c.MaxTTL.Std(), MaxQueued: c.MaxQueued, Inflight: c.Inflight, MaxPayload: int(c.MaxPayload),
		KeepFor: c.KeepFor.Std(), KeepMax: c.KeepMax, MaxEvents: c.MaxEvents, DropOldEvents: c.WhenEventsFull == "drop_old",
		MaxOpen: configs.MaxOpenCommands, StartGrace: configs.CommandStartGrace,
	})
	if err != nil {
		return err
	}
	a.life.onStop("commands", stopShort, a.commands.Close)
	a.sessions.OnReady(a.commands.OnReady)
	epoch, err := a.clock.presenceEpoch()
	if err != nil {
		return err
	}
	a.sessions.OnPresence(newPresence(a.cfg.Cell.ID, a.cfg.Cell.Node, epoch, a.producer, a.reg.own, a.log).on)
	return nil
}

func (a *App) openBroker(context.Context) error {
	o, err := a.brokerOptions()
	if err != nil {
		return err
	}
	if a.broker, err = broker.New(o); err != nil {
		return err
	}
	return nil
}

func (a *App) startBroker(ctx context.Context) error {
	if err := a.broker.Start(ctx); err != nil {
		return err
	}
	a.life.onStop("drain", stopShort, func(context.Context) error { a.drain.end(); return nil })
	a.life.onStop("listeners", stopClients, func(ctx context.Context) error {
		reason, endpoint := a.drain.farewell()
		a.pointAll(endpoint, "shutdown")
		return a.broker.Stop(ctx, reason, endpoint)
	})
	return nil
}

// startBackground begins what nobody waits for: the disk ladder, commands from Kafka, the sync worker, the
// watch on the rules.
func (a *App) startBackground() error {
	a.background("state file watch", a.db.Watch)
	a.background("clock", func(ctx context.Context) { a.clock.run(ctx, a.journal) })
	a.background("disk ladder", func(ctx context.Context) { a.ladder.run(ctx, a.Config) })
	if a.cfg.Commands.FromKafka {
		if err := a.startInbox(); err != nil {
			return err
		}
	}
	if a.sync != nil {
		a.sync.Start()
	}
	if a.cfg.Rules.Watch {
		a.background("rules watch", a.rules.watch)
	}
	purges := newPurges(a.sessions.PurgeOwned, a.commands, a.log)
	a.auth.WatchPurges(purges.add)
	a.background("purges", purges.run)
	return nil
}

// background runs fn until the gateway stops.
func (a *App) background(name string, fn func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(ctx)
	}()
	a.life.onStop(name, stopDisk, func(limit context.Context) error { // some of them write a last time
		cancel()
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return limit.Err()
		}
	})
}

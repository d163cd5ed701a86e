package app

import (
	"cellgate/broker"
	"cellgate/broker/command"
	"cellgate/broker/journal"
	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/configs"
)

// clients adds what the gateway keeps of vehicles and services beyond their connections.
type clients struct {
	*outlets
	sessions *session.Manager
	commands *command.Service
	presence *presence.Outbox
}

func openClients(o *outlets) (*clients, error) {
	sessions, err := o.openSessions()
	if err != nil {
		return nil, err
	}
	commands, err := o.openCommands(sessions)
	if err != nil {
		return nil, err
	}
	outbox, err := o.openPresence(sessions)
	if err != nil {
		return nil, err
	}
	return &clients{outlets: o, sessions: sessions, commands: commands, presence: outbox}, nil
}

func (o *outlets) openSessions() (*session.Manager, error) {
	index := broker.NewIndex()
	var shared session.Cell
	if o.claims != nil {
		shared = o.claims
	}
	sessions, err := session.Open(session.Options{
		Cell: shared,
		DB:   o.db, Index: index, Journal: sessionJournal{o.journal}, Issuer: o.cfg.Auth.Issuer,
		Now: o.clock.Now, Wall: o.clock.Wall, Log: o.log, Metrics: session.NewMetrics(o.reg.own),
		Rejected: o.rejected, Bounds: sessionBounds(o.cfg), DiskShort: o.ladder.reserveShort,
		CommitInterval: configs.SessionCommitInterval,
	})
	if err != nil {
		return nil, err
	}
	if o.claims != nil {
		o.claims.sessions = sessions
	}
	index.PreferConnected(sessions.Connected)
	o.life.onStop("sessions", stopDisk, sessions.Close)
	return sessions, nil
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
		MaxQueuedBytesPerSubject: int64(s.MaxQueuedBytesPerSubject), MaxRetainedPerSubject: s.MaxRetainedPerSubject,
		MaxTopicLevels: c.Limits.MaxTopicLevels, MaxTotalBytes: configs.MaxTotalQueuedBytes,
		MaxRetainedMessages: s.MaxRetainedMessages, MaxRetainedBytes: int64(s.MaxRetainedBytes), MaxExpiry: s.MaxExpiry.Std(),
	}
}

// sessionJournal is the journal for sessions. Nothing waits for their records to be durable.
type sessionJournal struct{ *journal.Journal }

// Append implements session.Journal.
func (j sessionJournal) Append(recs []message.Record) (uint64, error) {
	return j.Journal.Append(recs, nil)
}

func (o *outlets) openCommands(sessions *session.Manager) (*command.Service, error) {
	c := &o.cfg.Commands
	commands, err := command.Open(command.Options{
		DB: o.db, Deliverer: deliverer{sessions}, Publish: (&results{o.cfg.Cell.ID, o.cfg.Cell.Node, o.producer}).publish,
		Clock: o.clock.Clock, Respond: o.respond, Watch: o.watchCommand, Sampling: o.sampling, Log: o.log, Metrics: command.NewMetrics(o.reg.own),
		Refused: o.rejected, Audit: o.auditCommand, KafkaMay: o.kafkaMay(), Envelope: c.EnvelopeFor311,
		DefaultTTL: c.DefaultTTL.Std(), MaxTTL: c.MaxTTL.Std(), MaxQueued: c.MaxQueued, Inflight: c.Inflight, MaxPayload: int(c.MaxPayload),
		KeepFor: c.KeepFor.Std(), KeepMax: c.KeepMax, MaxEvents: c.MaxEvents, DropOldEvents: c.WhenEventsFull == "drop_old",
		MaxOpen: configs.MaxOpenCommands, StartGrace: configs.CommandStartGrace, Cell: o.member.commands(),
	})
	if err != nil {
		return nil, err
	}
	if o.member != nil {
		o.member.remembered, o.claims.onClaimed = commands.Remembered, commands.OnReady
	}
	o.life.onStop("commands", stopDispatch, commands.Close) // may wait for stopRedis
	sessions.OnReady(commands.OnReady)
	return commands, nil
}

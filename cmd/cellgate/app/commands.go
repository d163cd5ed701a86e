package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/broker/session"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/message"
	"cellgate/configs/authority"
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
func (d deliverer) Deliver(vin string, m *message.Delivery) error {
	failed := m.Failed
	m.Failed = func(err error) { failed(undeliverable(err)) }
	return undeliverable(d.sessions.Deliver(vin, m))
}

// kafkaMay holds commands from Kafka to what the configuration leaves them.
func (t *trust) kafkaMay() func(vin, name string) bool {
	limit := authority.CommandLimit(t.cfg.Commands.FromKafkaNames, t.cfg.Commands.FromKafkaVINs)
	return func(vin, name string) bool { return t.auth.AllowsCommand(limit, vin, name) }
}

// auditCommand writes a request for a command, or for its end, to the audit log.
func (t *trust) auditCommand(c command.Audited) {
	by := c.Caller.By
	if c.Caller.Role != "" {
		by = c.Caller.Role + " " + by
	}
	t.audit.Write(auth.AuditEvent{
		At: c.At, Event: c.Action, TokenID: c.Caller.TokenID,
		Caller: auth.Caller{By: by, ByRole: c.Caller.Role, ByIssuer: c.Caller.Issuer, Address: c.Caller.Address},
		Origin: c.Caller.Origin, VIN: c.VIN, CommandID: c.ID, Name: c.Name, Outcome: c.Outcome, Reason: c.Reason,
	})
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

// publish is command.Options.Publish.
func (r *results) publish(ctx context.Context, events []command.Event) error {
	done := make(chan error, len(events))
	now := time.Now().UnixMilli()
	for i := range events {
		e := &events[i]
		headers := kafkaclient.AppendHeader(nil, "cell", r.cell)
		headers = kafkaclient.AppendHeader(headers, "vin", e.VIN)
		headers = kafkaclient.AppendHeader(headers, "msg-id", eventID(r.node, e))
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

// respond publishes what became of commands on the response topics of their senders: by the journal, so that sessions
// that are away get it too. The records are of no client.
func (d *disk) respond(ctx context.Context, all []command.Response) error {
	recs := make([]message.Record, len(all))
	for i := range all {
		recs[i] = message.Record{
			Kind: message.KindPublish, QoS: 1, Topic: all[i].Topic, Payload: all[i].Value,
			Props: message.Properties{ContentType: "application/json", UTF8Payload: true},
		}
		if all[i].Correlated {
			recs[i].Props.Correlation = append([]byte{}, all[i].Correlation...)
		}
	}
	last, err := d.journal.Append(recs, nil)
	if err != nil {
		return err
	}
	return d.journal.WaitDurable(ctx, last)
}

// eventID is the msg-id of a change of state: no other has it, also when the state file was lost in between.
func eventID(node string, e *command.Event) string {
	return message.ID(node+"-command", e.Epoch, e.N)
}

const (
	// inboxBytes is how much of vehicle.commands is taken at a time.
	inboxBytes = 256 << 10
	// inboxWait is how long the broker may wait for a command before it answers that there is none.
	inboxWait = 500 * time.Millisecond
)

// inbox is a partition of vehicle.commands: several gateways share the topic in a consumer group.
type inbox struct {
	part     *kafkaclient.Assignment
	commands *command.Service
	from     int64                 // the first record that is not committed
	held     bool                  // records from there on have been fetched
	gap      *kafkaclient.GapError // was passed over, and not reported: the next record tells how old it was
}

// Fetch implements command.Consumer. What was fetched and not committed comes again. A gap is passed over and
// reported: commands that come late are worth less than those behind them.
func (i *inbox) Fetch(ctx context.Context) ([]command.Message, error) {
	if i.held {
		i.part.Resume(i.from)
	}
	i.held, i.from = true, i.part.Next()
	for {
		recs, _, err := i.part.Fetch(ctx, inboxBytes, inboxWait)
		var gap *kafkaclient.GapError
		if errors.As(err, &gap) {
			if err = i.pass(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			i.report(time.Time{})
			return nil, err
		}
		if len(recs) == 0 {
			i.report(time.Time{})
			continue
		}
		i.report(recs[0].Time)
		out := make([]command.Message, len(recs))
		for n := range recs {
			r := &recs[n]
			out[n] = command.Message{Ref: recordRef(i.part.ID, r.Offset, r.Time), At: r.Time, Value: r.Value, By: string(r.Header("by"))}
		}
		return out, nil
	}
}

// pass goes on behind a gap, and tells the group so: what is gone is reported once.
func (i *inbox) pass(ctx context.Context) error {
	gap, err := i.part.Skip(ctx)
	if err != nil || gap == nil {
		return err
	}
	i.report(time.Time{}) // one before it that is not reported
	i.gap, i.from = gap, gap.To
	return nil
}

// report tells of the gap that was passed over, now that the time of what is after it is known; zero: there is nothing.
func (i *inbox) report(next time.Time) {
	if i.gap == nil {
		return
	}
	g := command.Gap{What: i.gap.Error(), Records: -1, Next: next}
	if n, known := i.gap.Lost(); known {
		g.Records = n
	}
	i.commands.Gone(g)
	i.gap = nil
}

// recordRef names a record for ever: offsets begin at 0 again when the topic is made anew, and its time tells it from the
// one that had the offset before.
func recordRef(partition int, offset int64, at time.Time) string {
	return fmt.Sprintf("kafka-%d-%d-%s", partition, offset, strconv.FormatInt(at.UnixMilli(), 36))
}

// Commit implements command.Consumer.
func (i *inbox) Commit(context.Context) error {
	if err := i.part.Commit(i.part.Next()); err != nil {
		return err
	}
	i.held = false
	return nil
}

// startInbox begins to take commands from Kafka.
func (a *gateway) startInbox() error {
	config, err := kafkaConfig("kafka", &a.cfg.Kafka)
	if err != nil {
		return err
	}
	group, err := kafkaclient.NewConsumer(kafkaclient.ConsumerOptions{
		Config: config, Name: "commands", Group: a.cfg.Commands.FromKafkaGroup, Topics: []string{topicCommands},
		Log: a.log, Metrics: a.kafka,
	})
	if err != nil {
		return err
	}
	a.producer.Prepare(topicCommands) // creates it where that is configured
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- group.Run(ctx, func(ctx context.Context, p *kafkaclient.Assignment) {
			_ = a.commands.Consume(ctx, &inbox{part: p, commands: a.commands})
		})
	}()
	a.life.onStop("commands from kafka", stopShort, func(limit context.Context) error {
		cancel()
		defer context.AfterFunc(limit, group.CutOff)()
		return <-done
	})
	return nil
}

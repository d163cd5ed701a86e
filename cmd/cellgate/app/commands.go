package app

import (
	"context"
	"errors"
	"time"

	"cellgate/auth"
	"cellgate/broker/cell"
	"cellgate/broker/command"
	"cellgate/broker/session"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/message"
	"cellgate/configs"
	"cellgate/configs/authority"
)

// Kafka topics of commands (commands.from_kafka in cell.yaml) and of their states.
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

// Deliver implements command.Deliverer. The command service stores the command itself, so the session need not keep the
// message on disk.
func (d deliverer) Deliver(vin string, m *message.Delivery) error {
	failed := m.Failed
	m.Failed = func(err error) { failed(undeliverable(err)) }
	return undeliverable(d.sessions.Deliver(vin, m))
}

// commands returns how the command service lets the cell decide; nil in a cell with one gateway.
func (m *member) commands() *command.Cell {
	if m == nil {
		return nil
	}
	return &command.Cell{
		Store: m.store, Node: m.self.Node, Owner: func(vin string) (cell.Connection, bool) { return m.owner(vin) },
		Usable: m.ready, Closed: m.closed, Patience: m.wait + configs.CommandGrace,
	}
}

// kafkaMay returns the check of commands from Kafka against the configured names and VINs.
func (t *trust) kafkaMay() func(vin, name string) bool {
	limit := authority.CommandLimit(t.cfg.Commands.FromKafkaNames, t.cfg.Commands.FromKafkaVINs)
	return func(vin, name string) bool { return t.auth.AllowsCommand(limit, vin, name) }
}

// auditCommand writes a request for or about a command to the audit log.
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

// undeliverable marks errors that no retry can fix.
func undeliverable(err error) error {
	if errors.Is(err, session.ErrTooLarge) {
		return errors.Join(command.ErrUndeliverable, err)
	}
	return err
}

// results publishes the state changes of commands to Kafka.
type results struct {
	cell, node string
	producer   *kafkaclient.Producer
}

// publish is command.Options.Publish.
func (r *results) publish(ctx context.Context, events []command.Event) error {
	records := make([]kafkaclient.Record, len(events))
	now := time.Now().UnixMilli()
	for i := range events {
		e := &events[i]
		headers := kafkaclient.AppendHeader(nil, "cell", r.cell)
		headers = kafkaclient.AppendHeader(headers, "vin", e.VIN)
		headers = kafkaclient.AppendHeader(headers, "msg-id", eventID(r.node, e))
		headers = kafkaclient.AppendHeader(headers, "content-type", "application/json")
		records[i] = kafkaclient.Record{Topic: topicResults, Key: []byte(e.VIN), Value: e.Value, Headers: headers, HeaderCount: 4, Time: now}
	}
	refused, err := produceAll(ctx, r.producer, records)
	return errors.Join(append(refused, err)...)
}

// respond publishes the outcomes of commands on the response topics of their senders. It appends them to the journal,
// so that sessions of disconnected clients get them too. The records belong to no client.
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

// eventID returns the msg-id of a state change. It is unique, also after a loss of the state file.
func eventID(node string, e *command.Event) string {
	return message.ID(node+"-command", e.Epoch, e.N)
}

package broker

import (
	"cellgate/broker/command"
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// ackCommand acknowledges after the command service has decided. The ack's seq is then a number of this connection, by
// which decided finds it.
const ackCommand AckMode = 255

// isCommand reports whether a PUBLISH by this client is a command: from a service, on v1/{vin}/cmd/{id}/{name} of
// another client.
func (c *conn) isCommand(topic string) bool {
	rec := message.Record{Kind: message.KindPublish, Client: c.key, Topic: topic}
	return c.b.decide != nil && !c.vehicle && rec.IsCommand()
}

// command passes a command to the command service instead of the journal. It is acknowledged after the service's
// decision is on disk.
func (c *conn) command(in *frame.Inbound, topic string) bool {
	rec := message.Record{Kind: message.KindPublish, QoS: in.QoS, Client: c.key, Topic: topic, Payload: in.Payload}
	if in.HasProps {
		c.properties(in, &rec)
	}
	a := ack{id: in.PacketID, typ: frame.TypePuback, mode: ackCommand}
	if in.QoS == 2 {
		a.typ = frame.TypePubrec
		if _, a.again = c.session.ReceiveQoS2(in.PacketID, in.Dup, topic, in.Payload); a.again && c.version == frame.Version5 {
			c.reader.credit++ // the exchange already has its place in the window (4.9)
		}
	}
	c.reader.submitted++
	a.seq = c.reader.submitted
	ctx, done := c.waitContext()
	err := c.b.decide(ctx, &rec, c.caller(), c.version == frame.Version5 && in.QoS > 0, func(reason byte, text string) { c.decided(a, decision{reason, text}) })
	done()
	if err != nil {
		if in.QoS == 2 {
			c.session.CancelQoS2(in.PacketID)
		}
		return c.flush() && c.endNow(whyCommands)
	}
	c.b.counters.received[0][in.QoS].Inc()
	if in.QoS > 0 {
		c.stage(a)
	}
	return len(c.reader.scratch.acks) < batchRecords || c.flush()
}

// caller describes the client to the command service.
func (c *conn) caller() command.Caller {
	id, perm, levels := c.shared.identity.Load(), c.shared.perm.Load(), c.b.limits.Load().MaxTopicLevels
	return command.Caller{
		By: id.Subject, Origin: command.OriginMQTT, Role: id.Role, Issuer: id.Issuer, TokenID: id.TokenID, Address: c.t.peer.String(),
		May:     perm.Command,
		Respond: func(topic string) bool { return message.Levels(topic) <= levels && perm.Respond(topic) },
	}
}

// decision is the command service's: a reason code, and what it refuses.
type decision struct {
	reason byte
	text   string
}

// decided releases the acknowledgement of a command, from any goroutine. MQTT 3.1.1 has no refusing acknowledgement:
// the connection ends instead.
func (c *conn) decided(a ack, d decision) {
	refused := d.reason >= frame.ReasonUnspecified
	if a.typ == frame.TypePubrec {
		// This comes before the PUBREC: after a refusing one, the client may use the identifier for another message.
		if refused {
			c.session.CancelQoS2(a.id)
		} else {
			c.session.JournaledQoS2(a.id, c.b.journal.Last())
		}
	}
	switch {
	case refused && c.version != frame.Version5:
		c.end(c.b.farewell(d.reason))
		return
	case a.id == 0: // QoS 0
		return
	}
	c.mu.Lock()
	c.writer.acks.decide(a.seq, d)
	c.acknowledgeLocked()
	c.mu.Unlock()
}

// refuseCommand refuses a command that the client's permissions do not allow. A client with the permission whose limits
// forbid the command is refused and audited by the command service. For a client without it, a sample is audited.
func (c *conn) refuseCommand(in *frame.Inbound, topic string) bool {
	if c.shared.perm.Load().Granted(topic) {
		return c.command(in, topic)
	}
	c.b.auth.AuditRefuse("command", *c.shared.identity.Load(), c.peer())
	return c.refuse(in, topic, whyTopic)
}

package broker

import (
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// places is a set of a batch's records, by index.
type places uint64

func (p places) has(i int) bool { return p&(1<<i) != 0 }
func (p *places) add(i int)     { *p |= 1 << i }

// claimRetained claims room for a retained message, the next record of the batch. It reports whether there is room.
func (c *conn) claimRetained(in *frame.Inbound, topic string) bool {
	rec := message.Record{Kind: message.KindPublish, Client: c.key, Topic: topic, Payload: in.Payload}
	claimed, err := c.b.sessions.ClaimRetained(&rec)
	if claimed {
		c.reader.scratch.claims.add(len(c.reader.scratch.records))
	}
	return err == nil
}

// unretainable refuses a PUBLISH because there is no room to retain it. It is not journaled. The session manager has
// counted it.
func (c *conn) unretainable(in *frame.Inbound, topic string) bool {
	c.traceRefusal(in, topic, frame.ReasonQuotaExceeded, "retained")
	return c.deny(in, whyRetained)
}

// cancelClaims cancels the claims of a batch that was not journaled.
func (c *conn) cancelClaims() {
	s := c.reader.scratch
	for i := range s.records {
		if s.claims.has(i) {
			c.b.sessions.CancelRetained(s.records[i].Topic)
		}
	}
	s.claims = 0
}

// passClaims passes the sequences of the batch's claimed messages to the session manager.
func (c *conn) passClaims() {
	s := c.reader.scratch
	if s.claims == 0 {
		return
	}
	for i := range s.records {
		if s.claims.has(i) {
			c.b.sessions.JournaledRetained(s.records[i].Topic, s.records[i].Seq)
		}
	}
	s.claims = 0
}

package broker

import (
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// places are records of a batch by their index.
type places uint64

func (p places) has(i int) bool { return p&(1<<i) != 0 }
func (p *places) add(i int)     { *p |= 1 << i }

// claimRetained takes room for the next record of the batch, a message that is to be retained. False: there is none.
func (c *conn) claimRetained(in *frame.Inbound, topic string) bool {
	rec := message.Record{Kind: message.KindPublish, Client: c.key, Topic: topic, Payload: in.Payload}
	claimed, err := c.b.sessions.ClaimRetained(&rec)
	if claimed {
		c.reader.scratch.claims.add(len(c.reader.scratch.records))
	}
	return err == nil
}

// unretainable answers a PUBLISH that there is no room to retain: nothing of it is journaled. The session manager
// has counted it.
func (c *conn) unretainable(in *frame.Inbound, topic string) bool {
	c.traceRefusal(in, topic, frame.ReasonQuotaExceeded, "retained")
	if c.version != frame.Version5 {
		return c.flush() && c.endNow(frame.ReasonQuotaExceeded, "quota")
	}
	c.reply(in, frame.ReasonQuotaExceeded)
	return true
}

// cancelClaims gives up the batch's claims: it is not in the journal.
func (c *conn) cancelClaims() {
	s := c.reader.scratch
	for i := range s.records {
		if s.claims.has(i) {
			c.b.sessions.CancelRetained(s.records[i].Topic)
		}
	}
	s.claims = 0
}

// settleClaims tells where in the journal the batch's claimed messages are.
func (c *conn) settleClaims() {
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

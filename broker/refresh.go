package broker

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// authMethod is the MQTT 5 authentication method that carries a token instead of the password.
const authMethod = "CELL-JWT"

// reauthenticate handles AUTH (MQTT 5, 4.12.1).
func (c *conn) reauthenticate(f []byte, h frame.Header) bool {
	a, err := frame.ScanAuth(f, h)
	if err != nil {
		return c.violation(err)
	}
	if a.Reason != frame.ReasonReauthenticate || c.authMethod == "" || string(a.Method) != c.authMethod {
		return c.violation(&frame.Violation{
			Reason: frame.ReasonProtocolError, Why: "AUTH is not a re-authentication with the method of CONNECT",
		})
	}
	if !c.refresh(a.Data) {
		c.b.reject("token_refresh")
		return c.endNow(whyTokenRefused)
	}
	c.control(frame.AppendAuth(nil, frame.ReasonSuccess, c.authMethod))
	return true
}

// publishToken handles a PUBLISH of a fresh token on v1/{id}/token. The token is not journaled or passed on.
func (c *conn) publishToken(in *frame.Inbound) bool {
	if !c.refresh(in.Payload) {
		return !c.shared.stopping.Load() && c.refuse(in, "", whyNewToken)
	}
	if in.QoS == 2 {
		c.session.ReceiveQoS2(in.PacketID, in.Dup, "", in.Payload)
		c.session.JournaledQoS2(in.PacketID, c.b.journal.Last()) // there is no record to wait for
	}
	c.reply(in, 0)
	return true
}

// refresh replaces the connection's token. A token for another subject ends the connection.
func (c *conn) refresh(token []byte) bool {
	old := c.shared.identity.Load()
	id, err := c.b.auth.Verify(token, c.peer())
	if err != nil {
		return false
	}
	if id.Subject != old.Subject || id.Role != old.Role || old.Anonymous {
		c.b.auth.AuditRefuse("other-subject", id, c.peer())
		c.end(c.b.explain(whyTokenSubject))
		return false
	}
	c.assume(id)
	c.permit()
	if err := c.b.auth.Ended(id); err != nil {
		c.endInvalid(err)
		return false
	}
	c.b.auth.AuditRefresh(id, c.peer())
	return true
}

// permit gives the connection and its session the current permissions of its identity.
func (c *conn) permit() {
	c.b.permitting.Lock()
	defer c.b.permitting.Unlock()
	id := c.shared.identity.Load()
	perm := c.b.auth.Permissions(*id)
	c.shared.perm.Store(perm)
	c.session.SetPermissions(perm, id.Expires)
}

// assume sets the connection's identity and the end of its token. The caller updates the permissions.
func (c *conn) assume(id auth.Identity) {
	c.shared.identity.Store(&id)
	end, notice := c.b.schedule(c.b.auth.Deadline(id))
	c.shared.endAt.Store(end)
	c.shared.noticeAt.Store(notice)
	for _, at := range []int64{end, notice} {
		if at != 0 {
			c.b.wheel.sooner(c, time.Duration(at-c.b.wheel.wall.Load())*time.Millisecond)
		}
	}
}

func (c *conn) peer() auth.Peer {
	return auth.Peer{Address: c.t.peer.String(), Certificate: c.t.certificate()}
}

// jitterShare bounds Limits.ExpiryJitter to 1/jitterShare of the token's remaining life.
const jitterShare = 20

// schedule returns when a connection with this deadline ends, never later than it, and when its client is notified, in
// Unix milliseconds; 0 means never.
func (b *Broker) schedule(deadline time.Time) (end, notice int64) {
	if deadline.IsZero() {
		return 0, 0
	}
	limits, left := b.limits.Load(), deadline.Sub(b.now())
	jitter := min(limits.ExpiryJitter, left/jitterShare)
	if jitter > 0 {
		deadline = deadline.Add(-rand.N(jitter)) //nolint:gosec // spreads load, hides nothing
	}
	// The wheel checks once a tick. End a tick early, so that no connection outlives its token.
	deadline = deadline.Add(-wheelTick)
	if limits.ExpiringNotice > 0 {
		notice = max(deadline.Add(-limits.ExpiringNotice).UnixMilli(), b.now().Add(min(left/2, time.Second)).UnixMilli())
	}
	return deadline.UnixMilli(), notice
}

// noticeExpiring publishes the end of the client's token on v1/{id}/sys/token-expiring.
func (b *Broker) noticeExpiring(c *conn) {
	end := time.UnixMilli(c.shared.endAt.Load())
	payload, err := json.Marshal(map[string]string{"expires_at": end.UTC().Format(time.RFC3339)})
	if err != nil || !c.vehicle {
		return
	}
	err = b.sessions.Deliver(c.id, &message.Delivery{
		Topic: c.own + "sys/token-expiring", Payload: payload, Life: max(end.Sub(c.b.now()), time.Second),
		Props: message.Properties{ContentType: "application/json"},
	})
	if err != nil {
		b.log.Debug("token-expiring notice not delivered", "client", c.id, "err", err)
	}
}

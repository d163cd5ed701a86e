package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/session"

	"github.com/mochi-mqtt/server/v2/packets"
)

// request handles all packets except PUBLISH, PINGREQ and acknowledgements.
func (c *conn) request(f []byte, h frame.Header) bool {
	switch h.Type {
	case frame.TypeSubscribe:
		return c.subscribe(f, h)
	case frame.TypeUnsubscribe:
		return c.unsubscribe(f, h)
	case frame.TypeDisconnect:
		return c.disconnect(f, h)
	case frame.TypeAuth:
		return c.reauthenticate(f, h)
	default:
		return c.violation(&frame.Violation{Reason: frame.ReasonProtocolError, Why: "second CONNECT"})
	}
}

// acknowledged passes a client's acknowledgement to its session.
func (c *conn) acknowledged(f []byte, h frame.Header) bool {
	a, err := frame.ScanAck(f, h, c.version)
	if err != nil {
		return c.flush() && c.violation(err)
	}
	switch h.Type {
	case frame.TypePuback:
		c.session.Puback(a.PacketID, a.Reason)
	case frame.TypePubrec:
		c.session.Pubrec(a.PacketID, a.Reason)
	default:
		c.session.Pubcomp(a.PacketID, a.Reason)
	}
	return true
}

// maxOperations bounds the SUBSCRIBEs and UNSUBSCRIBEs of a connection that wait for the state file.
const maxOperations = 16

func (c *conn) beginOperation() bool {
	if !c.waitFor(func() bool { return c.waits.operations < maxOperations }) {
		return false
	}
	c.mu.Lock()
	c.waits.operations++
	c.mu.Unlock()
	return true
}

func (c *conn) endOperation() {
	c.mu.Lock()
	c.waits.operations--
	c.signalLocked()
	c.mu.Unlock()
}

func (c *conn) subscribe(f []byte, h frame.Header) bool {
	if err := frame.CheckSubscribe(f, h, c.version); err != nil {
		return c.violation(err)
	}
	pk := packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Subscribe}}
	if err := pk.SubscribeDecode(f[h.Head:h.Size]); err != nil {
		return c.violation(err)
	}
	c.reader.seen += len(pk.Filters) - 1 // each filter is work for the gateway
	subs := make([]session.Subscription, len(pk.Filters))
	for i, s := range pk.Filters {
		subs[i] = session.Subscription{
			Filter: strings.Clone(s.Filter), QoS: s.Qos, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished,
			RetainHandling: s.RetainHandling,
		}
	}
	var subID uint32
	if ids := pk.Properties.SubscriptionIdentifier; len(ids) > 0 {
		subID = uint32(ids[0]) //nolint:gosec // at most 268,435,455: scanned
	}
	if !c.awaitFanout() || !c.beginOperation() {
		return false
	}
	id := pk.PacketID
	c.session.Subscribe(subs, subID, func(codes []byte) {
		f := frame.AppendSuback(nil, id, codes, c.b.suback(codes), c.version)
		if !c.takesText(len(f)) {
			f = frame.AppendSuback(nil, id, codes, "", c.version)
		}
		c.control(f)
		c.endOperation()
	})
	return true
}

// awaitFanout waits until messages published before a SUBSCRIBE are fanned out. A message that is already acknowledged
// must not reach a later subscriber as a live one, and a retained one must already be stored or removed. Neither
// applies to a vehicle's own topics. If the fan-out lags too far, the wait ends and the SUBSCRIBE proceeds; those that
// follow soon wait only briefly.
func (c *conn) awaitFanout() bool {
	if c.vehicle {
		return true
	}
	ctx, done := c.waitContext()
	defer done()
	ctx, cancel := context.WithTimeout(ctx, c.b.fanoutWait())
	defer cancel()
	err := c.b.sessions.AwaitFanout(ctx, c.b.journal.Last())
	late := errors.Is(err, context.DeadlineExceeded)
	if late {
		c.b.fanoutLate.Store(c.b.wheel.clock.Load())
	}
	return err == nil || late
}

// How long a SUBSCRIBE waits for the fan-out: maxFanoutWait, but only lateFanoutWait within fanoutLateFor after a wait
// that failed.
const (
	maxFanoutWait  = 2 * time.Second
	lateFanoutWait = 50 * time.Millisecond
	fanoutLateFor  = 10 * time.Second
)

func (b *Broker) fanoutWait() time.Duration {
	if late := b.fanoutLate.Load(); late != 0 && b.wheel.clock.Load()-late < fanoutLateFor.Milliseconds() {
		return lateFanoutWait
	}
	return maxFanoutWait
}

func (c *conn) unsubscribe(f []byte, h frame.Header) bool {
	if err := frame.CheckUnsubscribe(f, h, c.version); err != nil {
		return c.violation(err)
	}
	pk := packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}}
	if err := pk.UnsubscribeDecode(f[h.Head:h.Size]); err != nil {
		return c.violation(err)
	}
	c.reader.seen += len(pk.Filters) - 1
	filters := make([]string, len(pk.Filters))
	for i, s := range pk.Filters {
		filters[i] = strings.Clone(s.Filter)
	}
	if !c.beginOperation() {
		return false
	}
	id := pk.PacketID
	c.session.Unsubscribe(filters, func(codes []byte) {
		c.control(frame.AppendUnsuback(nil, id, codes, c.version))
		c.endOperation()
	})
	return true
}

// disconnect handles the client's DISCONNECT. Nothing after it is handled.
func (c *conn) disconnect(f []byte, h frame.Header) bool {
	d, err := frame.ScanDisconnect(f, h, c.version)
	if err != nil {
		return c.violation(err)
	}
	if d.HasExpiry {
		if c.noExpiry && d.Expiry != 0 {
			return c.violation(&frame.Violation{
				Reason: frame.ReasonProtocolError, Why: "session expiry of 0 at CONNECT raised at DISCONNECT",
			})
		}
		expiry := expiryOf(d.Expiry)
		c.reader.newExpiry = &expiry
	}
	c.reader.normal = d.Reason == frame.ReasonSuccess
	c.mu.Lock()
	c.closing.goodbye = true
	c.mu.Unlock()
	c.endSilently("client")
	return false
}

// expiryOf converts an MQTT 5 session expiry interval.
func expiryOf(seconds uint32) time.Duration {
	if seconds == 0xFFFFFFFF {
		return session.MaxExpiry
	}
	return time.Duration(seconds) * time.Second
}

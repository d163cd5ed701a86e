package broker

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"

	"github.com/mochi-mqtt/server/v2/packets"
)

// request is a CONNECT in progress.
type request struct {
	b         *Broker
	l         *listener
	t         *transport
	pk        packets.Packet   // aliases the buffer of the CONNECT
	willProps frame.Properties // as pk; mochi's do not distinguish absent from empty
	version   byte
	clientID  string
	assigned  bool // the server chose the client identifier
	identity  auth.Identity
	perm      *auth.Permissions
	keepalive time.Duration
	clamped   bool
	reserved  bool // has a place in the wheel
}

// receiveConnect reads and answers the CONNECT. It returns nil if it is refused; otherwise the connection owns the
// socket.
func (b *Broker) receiveConnect(l *listener, t *transport) *conn {
	in := b.pools.getOut()
	defer b.pools.putOut(in)
	h, err := b.readConnect(t, in)
	if err != nil {
		b.connectFailed(l, t, "connect", err)
		return nil
	}
	r := &request{b: b, l: l, t: t}
	defer r.release()
	no := r.parse(in.b[:min(h.Size, len(in.b))], h)
	if no == nil {
		no = r.authenticate()
	}
	if no == nil {
		no = r.admit()
	}
	t.leave() // the rest waits, for the client or for the disk
	if no != nil {
		r.refuse(no)
		return nil
	}
	return r.attach(in.b[h.Size:])
}

// parse scans the CONNECT, and decodes it if the scanner accepts it.
func (r *request) parse(f []byte, h frame.Header) *refusal {
	version, ok := frame.ConnectVersion(f[h.Head:])
	if !ok {
		return &refusal{label: "not_mqtt"}
	}
	r.version = version
	if version != frame.Version311 && version != frame.Version5 {
		return r.no(whyVersion)
	}
	if len(f) < h.Size || h.Size > r.b.limits.Load().MaxConnectPacket {
		front, _ := frame.ConnectFront(f[h.Head:])
		r.pk.Properties.MaximumPacketSize = front.MaximumPacket
		return r.no(whyConnectSize)
	}
	err := frame.CheckConnect(f, h)
	if err == nil {
		r.pk.FixedHeader.Type = packets.Connect
		err = r.pk.ConnectDecode(f[h.Head:h.Size])
	}
	if err != nil {
		return r.violation(err)
	}
	r.willProps = frame.WillProperties(f, h)
	r.clientID = strings.Clone(r.pk.Connect.ClientIdentifier)
	r.clampKeepalive()
	return nil
}

// no returns the refusal that w names.
func (r *request) no(w why) *refusal {
	no := r.b.explain(w)
	return &no
}

func (r *request) violation(err error) *refusal {
	no := r.no(whyConnect)
	if v, ok := errors.AsType[*frame.Violation](err); ok {
		no.reason, no.text = v.Reason, v.Why
	}
	return no
}

func (r *request) clampKeepalive() {
	limit := r.b.limits.Load().MaxKeepalive
	r.keepalive = time.Duration(r.pk.Connect.Keepalive) * time.Second
	if r.keepalive == 0 || r.keepalive > limit {
		r.keepalive, r.clamped = limit, true
	}
}

// authenticate determines the client's identity and checks its client identifier.
func (r *request) authenticate() *refusal {
	method := r.pk.Properties.AuthenticationMethod
	if method != "" && method != authMethod {
		return r.no(whyAuthMethod)
	}
	peer := auth.Peer{Address: r.t.peer.String(), Certificate: r.t.certificate()}
	if r.l.anonymousRole != "" {
		no := r.anonymous()
		if no != nil {
			r.b.auth.AuditRefuse(no.audited(), r.identity, peer)
		}
		return no
	}
	token := r.pk.Connect.Password
	if method != "" {
		token = r.pk.Properties.AuthenticationData
	}
	id, err := r.b.auth.Verify(token, peer)
	if err != nil {
		no := r.no(whyToken)
		no.label = auth.Reason(err)
		no.text += no.label + ": connect with another one"
		return no
	}
	r.identity, r.perm = id, r.b.auth.Permissions(id)
	if no := r.checkClientID(); no != nil {
		r.b.auth.AuditRefuse(no.audited(), id, peer)
		return no
	}
	return nil
}

func (r *request) checkClientID() *refusal {
	if r.clientID == "" {
		if !r.perm.AssignedClientID() {
			return r.no(whyNoClientID)
		}
		r.clientID, r.assigned = r.perm.NewClientID(), true
	} else if err := r.perm.ClientID(r.clientID); err != nil {
		return r.no(whyClientID)
	}
	if r.identity.Anonymous { // a user name means nothing without a token
		return nil
	}
	if err := r.perm.Username(string(r.pk.Connect.Username)); err != nil {
		return r.no(whyUserName)
	}
	return nil
}

// anonymous authenticates a client on a listener without tokens.
func (r *request) anonymous() *refusal {
	role := r.l.anonymousRole
	if r.clientID == "" {
		id, err := r.b.auth.Anonymous(role, "")
		if err != nil {
			return r.no(whyNoClientID)
		}
		perm := r.b.auth.Permissions(id)
		if !perm.AssignedClientID() {
			return r.no(whyNoClientID)
		}
		r.clientID, r.assigned = perm.NewClientID(), true
	}
	id, err := r.b.auth.Anonymous(role, r.clientID)
	if err != nil {
		return r.no(whyNoClientID)
	}
	r.identity, r.perm = id, r.b.auth.Permissions(id)
	return r.checkClientID()
}

// admit checks whether there is room, and whether this gateway serves the client.
func (r *request) admit() *refusal {
	b := r.b
	if b.stopping.Load() {
		return r.no(whyStopping)
	}
	// A takeover frees the place of the old connection.
	r.reserved = b.wheel.reserve(b.limits.Load().MaxConnections) ||
		(b.sessions.Connected(r.identity.SessionKey(r.clientID)) && b.wheel.reserve(math.MaxInt))
	if !r.reserved {
		b.reject("connections")
		return r.no(whyFull)
	}
	if reason, ref := b.admitHook(&r.identity, r.clientID); reason != frame.ReasonSuccess {
		return b.notAdmitted(reason, ref)
	}
	return nil
}

// release releases the place that admit reserved, unless the connection has taken it.
func (r *request) release() {
	if r.reserved {
		r.b.wheel.unreserve()
		r.reserved = false
	}
}

// refuse sends a CONNACK if the protocol has one for the refusal. The deadline of the CONNECT still applies.
func (r *request) refuse(no *refusal) {
	r.release()
	r.b.metrics.connects.WithLabelValues(no.label).Inc()
	r.b.reject("connect_" + no.label)
	r.b.log.Debug("CONNECT refused", "listener", r.l.name, "peer", r.t.peer, "client", r.clientID, "result", no.label)
	version := r.version
	if version != frame.Version5 {
		version = frame.Version311
		if no.reason == frame.ReasonPacketTooLarge || (no.label == "violation" && no.reason != frame.ReasonClientIDInvalid) {
			return // 3.1.1 has no return code for it: the connection is closed (3.1.4)
		}
	}
	if no.reason == frame.ReasonSuccess {
		return
	}
	answer := r.encode(frame.Connack{Reason: no.reason, ReasonString: no.text, ServerReference: no.serverRef}, version)
	if answer == nil {
		return
	}
	if _, err := r.t.stream().Write(answer); err == nil {
		r.t.closeLingering()
	}
}

// encode omits properties that make the CONNACK larger than the client's maximum packet (MQTT 5, 3.2.2.3.9). It returns
// nil if the CONNACK is still too large.
func (r *request) encode(a frame.Connack, version byte) []byte {
	limit := int(r.pk.Properties.MaximumPacketSize)
	for _, leaveOut := range [...]func(){func() {}, func() { a.ReasonString = "" }, func() { a.ServerReference = "" }} {
		leaveOut()
		if f := a.Append(nil, version); limit == 0 || len(f) <= limit {
			return f
		}
	}
	return nil
}

// will returns a copy of the will, nil without one.
func (r *request) will() *session.Will {
	c := &r.pk.Connect
	if !c.WillFlag {
		return nil
	}
	p := &r.willProps
	w := &session.Will{
		Topic: strings.Clone(c.WillTopic), Payload: append([]byte(nil), c.WillPayload...),
		QoS: c.WillQos, Retain: c.WillRetain, Delay: time.Duration(p.WillDelay) * time.Second, Props: p.Forwarded(),
	}
	w.Props.ContentType, w.Props.ResponseTopic = strings.Clone(w.Props.ContentType), strings.Clone(w.Props.ResponseTopic)
	w.Props.Correlation = bytes.Clone(w.Props.Correlation)
	p.EachUser(func(name, value []byte) {
		w.Props.User = append(w.Props.User, message.UserProperty{Name: string(name), Value: string(value)})
	})
	return w
}

// expiry returns how long the session is to outlive the connection, as the client requests it.
func (r *request) expiry() time.Duration {
	switch {
	case r.version == frame.Version5:
		return expiryOf(r.pk.Properties.SessionExpiryInterval) // 0 when absent
	case r.pk.Connect.Clean:
		return 0
	default:
		return session.MaxExpiry
	}
}

// attach attaches the connection to its session and answers CONNACK 0. rest holds the bytes after the CONNECT; none of
// them is handled before the CONNACK is queued.
func (r *request) attach(rest []byte) *conn {
	b := r.b
	roles := b.roleChanges.Load()
	c := r.newConn()
	ctx, cancel := context.WithTimeout(b.ctx, b.limits.Load().ConnectTimeout)
	defer cancel()
	p := &r.pk.Properties
	sess, present, err := b.sessions.Attach(ctx, session.Attach{
		Key: c.key, Version: c.version, CleanStart: r.pk.Connect.Clean, Expiry: r.expiry(),
		ReceiveMaximum: p.ReceiveMaximum, MaxPacket: p.MaximumPacketSize, AliasMaximum: p.TopicAliasMaximum,
		Vehicle: c.vehicle, Owner: ownerOf(&r.identity), Perm: c.shared.perm.Load(), Will: r.will(), Conn: c, NotAfter: r.identity.Expires,
	})
	if err != nil {
		if errors.Is(err, session.ErrWillNotPermitted) {
			b.auth.AuditRefuse("will", r.identity, c.peer())
		}
		r.refuse(r.attachRefusal(err))
		return nil
	}
	c.session = sess
	c.reader.recent = b.resends.back(c.key, present)
	c.reader.carry = append([]byte(nil), rest...)
	if err := r.t.Conn.SetDeadline(time.Time{}); err != nil {
		b.log.Debug("connection lost at CONNECT", "client", c.id, "err", err)
	}
	if c.shared.stopping.Load() { // SetDeadline may have removed end's deadline
		_ = r.t.Conn.SetReadDeadline(past())
	}
	b.enter(c)
	r.reserved = false
	if b.roleChanges.Load() != roles { // RefreshPermissions may have missed c
		c.permit()
	}
	r.accept(c, present)
	return c
}

// ownerOf returns the owner whose bounds the identity's sessions count towards.
func ownerOf(id *auth.Identity) session.Owner { return session.Owner(id.SessionKey(id.Subject)) }

func (r *request) attachRefusal(err error) *refusal {
	switch {
	case errors.Is(err, session.ErrSessions):
		return r.no(whySessions)
	case errors.Is(err, session.ErrWillTopic):
		return r.no(whyWillLevels)
	case errors.Is(err, session.ErrWillNotPermitted):
		return r.no(whyWill)
	case errors.Is(err, session.ErrTakeover):
		return r.no(whyTakeover)
	default:
		return r.no(whySession)
	}
}

func (r *request) newConn() *conn {
	c := &conn{
		b: r.b, t: r.t, id: r.clientID, key: r.identity.SessionKey(r.clientID), version: r.version,
		vehicle:   r.identity.Role == auth.RoleVehicle,
		keepalive: (r.keepalive + r.keepalive/2 + wheelTick).Milliseconds(),
		maxPacket: int(r.pk.Properties.MaximumPacketSize),
		noExpiry:  r.version == frame.Version5 && r.pk.Properties.SessionExpiryInterval == 0,
		explains:  r.version == frame.Version5 && (!r.pk.Properties.RequestProblemInfoFlag || r.pk.Properties.RequestProblemInfo == 1),
		resumable: r.expiry() > 0, announced: announce(r.b.limits.Load()),
	}
	if ws, ok := r.t.Conn.(*wsConn); ok {
		ws.ws.SetReadLimit(int64(c.announced.maxPacket) + wsMessageSlack)
	}
	if r.pk.Properties.AuthenticationMethod != "" {
		c.authMethod = authMethod
	}
	if c.vehicle {
		c.own = "v1/" + c.id + "/"
	}
	c.reader.onReadable = c.readable
	c.shared.lastRead.Store(r.b.wheel.clock.Load())
	c.assume(r.identity)
	c.shared.perm.Store(r.b.auth.Permissions(r.identity))
	return c
}

// accept queues CONNACK 0 and lets the session start to deliver.
func (r *request) accept(c *conn, present bool) {
	b := r.b
	connack := r.encode(r.connack(c, present), c.version)
	if connack == nil { // the client cannot learn that it is connected: it never was, so there is no will
		c.reader.normal = true
		c.endSilently("answer_too_large")
	}
	c.mu.Lock()
	if c.writer.open = !c.closing.begun; c.writer.open {
		c.appendLocked(connack)
	}
	c.mu.Unlock()
	b.metrics.connections.Inc()
	b.metrics.connects.WithLabelValues("accepted").Inc()
	r.t.startFeeding()
	if err := b.auth.Ended(r.identity); err != nil {
		c.endInvalid(err)
	}
	c.session.Start()
	if b.commandSubscribe && c.vehicle {
		c.session.Subscribe([]session.Subscription{{Filter: c.own + "cmd/#", QoS: 1}}, 0, func([]byte) {})
	}
}

func (r *request) connack(c *conn, present bool) frame.Connack {
	a := frame.Connack{
		SessionPresent: present, ReceiveMaximum: uint16(c.announced.window), //nolint:gosec // at most 65,535
		MaximumPacket: uint32(c.announced.maxPacket), //nolint:gosec // never negative
		AliasMaximum:  maxAliases, AuthMethod: c.authMethod,
	}
	if r.assigned {
		a.AssignedClientID = c.id
	}
	if r.clamped {
		a.ServerKeepalive, a.HasKeepalive = uint16(min(r.keepalive/time.Second, 65_535)), true //nolint:gosec // bounded
	}
	if granted := c.session.Expiry(); granted != r.expiry() {
		a.SessionExpiry, a.HasSessionExpiry = uint32(min(granted/time.Second, 0xFFFFFFFE)), true //nolint:gosec // bounded
	}
	if r.pk.Properties.RequestResponseInfo == 1 && c.vehicle {
		a.ResponseInfo = c.own
	}
	return a
}

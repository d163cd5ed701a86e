package authtest

import (
	"crypto/tls"
	"testing"

	"cellgate/test/mqtt"
)

// Reason codes of MQTT 5.
const (
	reasonNotAuthorized  = 0x87
	reasonBadCredentials = 0x86
)

// connect describes a CONNECT by the fields that these tests vary.
type connect struct {
	id, user string
	password string // a token
	version  byte   // 5 or 4
	keep     bool   // no clean start; on 5 with a session expiry of an hour
	will     string // topic
	willKept bool   // retained
	method   string // authentication method; the password is sent as its data
	tls      *tls.Config
}

func (c connect) packet() mqtt.Connect {
	o := mqtt.Connect{
		Version: c.version, ID: c.id, User: c.user, Password: c.password, Keep: c.keep, Keepalive: 60,
		Props: [][]byte{mqtt.Number(mqtt.TopicAliasMaximum, 16)},
	}
	if c.keep {
		o.Props = append(o.Props, mqtt.Number(mqtt.SessionExpiry, 3600))
	}
	if c.method != "" {
		o.Password = ""
		o.Props = append(o.Props, mqtt.String(mqtt.AuthMethod, c.method), mqtt.String(mqtt.AuthData, c.password))
	}
	if c.version == mqtt.V4 && c.user == "" && c.password != "" {
		o.User = c.id // 3.1.1 has no password without a user name
	}
	if c.will != "" {
		o.Will = &mqtt.Will{Topic: c.will, Payload: "will", QoS: 1, Retain: c.willKept}
	}
	return o
}

func open(t testing.TB, addr string, c connect) (*mqtt.T, byte) {
	t.Helper()
	m, ack := tryOpen(t, addr, c)
	if ack.Type != mqtt.CONNACK {
		t.Fatalf("connect %s: no CONNACK", c.id)
	}
	return m, ack.Reason
}

// tryOpen is like open for a CONNECT that may get no answer; then it returns the zero Packet.
func tryOpen(t testing.TB, addr string, c connect) (*mqtt.T, mqtt.Packet) {
	t.Helper()
	m := mqtt.DialT(t, addr, c.version, c.tls)
	ack, err := m.Connect(c.packet())
	if err != nil {
		ack = mqtt.Packet{}
	}
	return m, ack
}

// mustOpen is like open for a client that must be accepted.
func mustOpen(t testing.TB, addr string, c connect) *mqtt.T {
	t.Helper()
	m, code := open(t, addr, c)
	if code != 0 {
		t.Fatalf("connect %s on %d: refused with 0x%02x", c.id, c.version, code)
	}
	return m
}

// publish sends a PUBLISH that may be refused: with a reason, or by the end of the connection, which is an error.
func publish(m *mqtt.T, p mqtt.Publish) (code byte, err error) { return m.Client.Publish(p) }

func subscribe(m *mqtt.T, filter string) byte { return m.Subscribe(mqtt.Filter(filter, 1))[0] }

// authenticate sends AUTH 0x19 and returns the reason code of the answering AUTH.
func authenticate(m *mqtt.T, token string) (code byte, err error) {
	err = m.Client.Send(mqtt.Frame(mqtt.AUTH<<4, []byte{0x19},
		mqtt.Properties(mqtt.String(mqtt.AuthMethod, "CELL-JWT"), mqtt.String(mqtt.AuthData, token))))
	if err != nil {
		return 0, err
	}
	p, err := m.Client.Await(mqtt.AUTH, 0)
	return p.Reason, err
}

// ended waits until the gateway has closed the connection, and returns the reason code and reason string of its
// DISCONNECT, or 0 and "".
func ended(m *mqtt.T) (reason byte, why string) {
	m.TB.Helper()
	bye := m.Ended()
	text, _ := bye.Prop(mqtt.ReasonString)
	return bye.Reason, text.Value
}

// alive checks that the gateway answers a PINGREQ.
func alive(m *mqtt.T) bool { return m.Client.Ping() == nil }

// leave closes without a DISCONNECT.
func leave(m *mqtt.T) { _ = m.Conn.Close() }

func sendDisconnect(m *mqtt.T) {
	_ = m.Client.Send(mqtt.Disconnect())
	leave(m)
}

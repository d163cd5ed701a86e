package mqtt

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// T is a Client that fails its test instead of returning errors. It is closed with the test.
type T struct {
	*Client
	TB testing.TB

	// Got holds the messages read, with their topics filled in from aliases.
	Got     []Packet
	aliases map[uint32]string // the gateway's
}

// Over returns a client of a connection.
func Over(t testing.TB, version byte, conn net.Conn) *T {
	t.Cleanup(func() { _ = conn.Close() })
	return &T{Client: New(conn, version), TB: t}
}

// DialT opens a connection and sends nothing of MQTT. A nil config means plain TCP.
func DialT(t testing.TB, addr string, version byte, config *tls.Config) *T {
	t.Helper()
	c, err := Dial(addr, version, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Conn.Close() })
	return &T{Client: c, TB: t}
}

// fatal ends the test with an error.
func (c *T) fatal(err error) {
	c.TB.Helper()
	if err != nil {
		c.TB.Fatal(err)
	}
}

// Open sends a CONNECT that must be accepted.
func (c *T) Open(o Connect) Packet {
	c.TB.Helper()
	c.fatal(c.Enter(o))
	return c.Ack
}

// Send writes frames as they are.
func (c *T) Send(frames ...[]byte) {
	c.TB.Helper()
	c.fatal(c.Client.Send(frames...))
}

// Expect returns the next packet, which must be of the type.
func (c *T) Expect(typ byte) Packet {
	c.TB.Helper()
	p, err := c.Read()
	switch {
	case err != nil:
		c.TB.Fatalf("waiting for a packet of type %d: %v", typ, err)
	case p.Type != typ:
		c.TB.Fatalf("%v instead of a packet of type %d", p, typ)
	}
	return p
}

// ExpectAck returns the next packet, which must acknowledge id with the reason.
func (c *T) ExpectAck(typ byte, id uint16, reason byte) {
	c.TB.Helper()
	if p := c.Expect(typ); p.ID != id || p.Reason != reason {
		c.TB.Fatalf("%v instead of an acknowledgement of %d with 0x%02X", p, id, reason)
	}
}

// ExpectFrame reads the next frame, which must have the first byte, and the body unless that is nil.
func (c *T) ExpectFrame(first byte, body ...byte) {
	c.TB.Helper()
	got, b, err := c.ReadFrame()
	if err != nil {
		c.TB.Fatalf("got %v, want frame %#x % x", err, first, body)
	}
	if got != first || (body != nil && !bytes.Equal(b, body)) {
		c.TB.Fatalf("got frame %#x % x, want %#x % x", got, b, first, body)
	}
}

// Connack returns the code of the next frame, which must be a CONNACK, of either version.
func (c *T) Connack() byte {
	c.TB.Helper()
	first, body, err := c.ReadFrame()
	if err != nil || first != CONNACK<<4 || len(body) < 2 {
		c.TB.Fatalf("no CONNACK but %#x % x, %v", first, body, err)
	}
	return body[1]
}

// ExpectEnd waits for the end of the connection: on MQTT 5 a DISCONNECT with one of the reasons first, on 3.1.1
// nothing.
func (c *T) ExpectEnd(reasons ...byte) {
	c.TB.Helper()
	if c.Version == V5 {
		if p := c.Expect(DISCONNECT); !slices.Contains(reasons, p.Reason) {
			c.TB.Errorf("DISCONNECT with 0x%02X, not one of %X", p.Reason, reasons)
		}
	}
	c.ExpectClosed()
}

// ExpectClosed waits until the gateway closes without another packet.
func (c *T) ExpectClosed() {
	c.TB.Helper()
	p, err := c.Read()
	if err == nil {
		c.TB.Fatalf("%v instead of the end", p)
	}
	c.CheckEnd(err)
}

// CheckEnd checks that a read failed because the gateway has closed.
func (c *T) CheckEnd(err error) {
	c.TB.Helper()
	switch {
	case isTimeout(err):
		c.TB.Fatal("the gateway did not close the connection")
	case !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET):
		c.TB.Fatalf("read: %v", err)
	}
}

// Ended reads until the gateway closes and returns its DISCONNECT; the zero Packet if there was none.
func (c *T) Ended() Packet {
	c.TB.Helper()
	bye, err := c.ReadToEnd()
	c.fatal(err)
	return bye
}

// Quiet checks that the gateway neither sends anything nor closes within d.
func (c *T) Quiet(d time.Duration) {
	c.TB.Helper()
	c.fatal(c.Silence(d))
}

// Subscribe subscribes and returns the granted codes.
func (c *T) Subscribe(filters ...Subscription) []byte {
	c.TB.Helper()
	return c.SubscribeWith(nil, filters...)
}

// SubscribeWith is Subscribe with properties.
func (c *T) SubscribeWith(props [][]byte, filters ...Subscription) []byte {
	c.TB.Helper()
	codes, err := c.Client.Subscribe(props, filters...)
	c.fatal(err)
	return codes
}

// Unsubscribe returns the codes of the UNSUBACK.
func (c *T) Unsubscribe(filters ...string) []byte {
	c.TB.Helper()
	codes, err := c.Client.Unsubscribe(filters...)
	c.fatal(err)
	return codes
}

// Publish publishes a message that must be accepted, with the whole exchange of the QoS.
func (c *T) Publish(p Publish) {
	c.TB.Helper()
	if reason, err := c.Client.Publish(p); err != nil || reason != 0 {
		c.TB.Fatalf("publish to %q with QoS %d: 0x%02X, %v", p.Topic, p.QoS, reason, err)
	}
}

// Await reads up to a successful acknowledgement and keeps the others for later.
func (c *T) Await(typ byte, id uint16) {
	c.TB.Helper()
	if p := c.AwaitAny(typ, id); p.Reason != 0 {
		c.TB.Fatalf("type %d of %d with reason 0x%02X", typ, id, p.Reason)
	}
}

// AwaitAny is Await for any reason code.
func (c *T) AwaitAny(typ byte, id uint16) Packet {
	c.TB.Helper()
	p, err := c.Client.Await(typ, id)
	c.fatal(err)
	return p
}

// AwaitTopic returns the first message, read or to come, whose topic begins with prefix.
func (c *T) AwaitTopic(prefix string) Packet {
	c.TB.Helper()
	for seen := 0; ; seen++ {
		if seen == len(c.Got) {
			c.Message()
		}
		if p := c.Got[seen]; strings.HasPrefix(p.Topic, prefix) {
			return p
		}
	}
}

// Received returns all messages up to the answer to a PINGREQ.
func (c *T) Received() []Packet {
	c.TB.Helper()
	c.Ping()
	for len(c.later) > 0 {
		c.Message()
	}
	return c.Got
}

// Message returns the next packet, which must be a PUBLISH, and acknowledges it.
func (c *T) Message() Packet {
	c.TB.Helper()
	p, err := c.Next()
	c.fatal(err)
	named := p
	if alias, there := p.Prop(TopicAlias); there && p.Topic == "" {
		named.Topic = c.aliases[alias.Num]
	} else if there {
		if c.aliases == nil {
			c.aliases = map[uint32]string{}
		}
		c.aliases[alias.Num] = p.Topic
	}
	c.Got = append(c.Got, named)
	return p
}

// Messages returns the payloads of the next n messages.
func (c *T) Messages(n int) []string {
	c.TB.Helper()
	var list []string
	for range n {
		list = append(list, c.Message().Payload)
	}
	return list
}

// Acknowledge runs the exchange for a PUBLISH of the gateway.
func (c *T) Acknowledge(p Packet) {
	c.TB.Helper()
	c.fatal(c.Client.Acknowledge(p))
}

// Ping waits for a PINGRESP; packets before it are kept.
func (c *T) Ping() {
	c.TB.Helper()
	c.fatal(c.Client.Ping())
}

// Disconnect sends a DISCONNECT and waits until the gateway has closed.
func (c *T) Disconnect() {
	c.TB.Helper()
	c.Send(Disconnect())
	c.ExpectClosed()
}

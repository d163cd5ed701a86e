package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// client is one connection to the gateway.
type client struct {
	t       *testing.T
	conn    net.Conn
	in      *bufio.Reader
	version byte
	id      string
	next    uint16   // last packet identifier used
	later   []packet // read while something else was awaited
}

// dial opens a connection without sending anything.
func (e *env) dial(t *testing.T, version byte) *client {
	t.Helper()
	return e.dialTo(t, version, e.lab)
}

func (e *env) dialTo(t *testing.T, version byte, address string) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	return wrap(t, version, conn)
}

func wrap(t *testing.T, version byte, conn net.Conn) *client {
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t: t, conn: conn, in: bufio.NewReader(conn), version: version}
}

// client connects with a clean session and a client identifier of its own.
func (e *env) client(t *testing.T, version byte, props ...[]byte) *client {
	t.Helper()
	c, _ := e.open(t, connect{version: version, id: e.unique(), clean: true, props: props})
	return c
}

// open connects as told and expects to be accepted.
func (e *env) open(t *testing.T, o connect) (*client, packet) {
	t.Helper()
	c := e.dial(t, o.version)
	return c, c.open(o)
}

func (c *client) open(o connect) packet {
	c.t.Helper()
	c.id = o.id
	c.send(o.encode())
	ack := c.expect(tConnack)
	if ack.reason != 0 {
		c.t.Fatalf("CONNACK with reason 0x%02X", ack.reason)
	}
	return ack
}

func (c *client) send(frames ...[]byte) {
	c.t.Helper()
	if _, err := c.conn.Write(join(frames...)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// read gives the next packet, or the error that ended the connection.
func (c *client) read() (packet, error) {
	if len(c.later) > 0 {
		p := c.later[0]
		c.later = c.later[1:]
		return p, nil
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return packet{}, err
	}
	first, err := c.in.ReadByte()
	if err != nil {
		return packet{}, err
	}
	length, n := 0, 0
	for ; ; n++ {
		b, err := c.in.ReadByte()
		if err != nil {
			return packet{}, err
		}
		length |= int(b&0x7F) << (7 * n)
		if b < 0x80 {
			break
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return packet{}, err
	}
	p, err := decode(first, body, c.version)
	p.size = 2 + n + length
	if err != nil {
		c.t.Errorf("the gateway sent a bad packet (%02X %X): %v", first, body, err)
	}
	return p, nil
}

// expect gives the next packet, which must be of the type.
func (c *client) expect(typ byte) packet {
	c.t.Helper()
	p, err := c.read()
	switch {
	case err != nil:
		c.t.Fatalf("waiting for a packet of type %d: %v", typ, err)
	case p.typ != typ:
		c.t.Fatalf("a packet of type %d (reason 0x%02X, topic %q) instead of %d", p.typ, p.reason, p.topic, typ)
	}
	return p
}

// expectAck gives the next packet, which must acknowledge id with the reason.
func (c *client) expectAck(typ byte, id uint16, reason byte) {
	c.t.Helper()
	if p := c.expect(typ); p.id != id || p.reason != reason {
		c.t.Fatalf("type %d acknowledges %d with 0x%02X, not %d with 0x%02X", typ, p.id, p.reason, id, reason)
	}
}

// expectEnd awaits the end of the connection: on MQTT 5 a DISCONNECT with one of the reasons first, on 3.1.1
// nothing.
func (c *client) expectEnd(reasons ...byte) {
	c.t.Helper()
	if c.version == v5 {
		if p := c.expect(tDisconnect); !slices.Contains(reasons, p.reason) {
			c.t.Errorf("DISCONNECT with 0x%02X, not one of %X", p.reason, reasons)
		}
	}
	c.expectClosed()
}

// expectClosed awaits that the gateway closes without another packet.
func (c *client) expectClosed() {
	c.t.Helper()
	p, err := c.read()
	if err == nil {
		c.t.Fatalf("a packet of type %d (reason 0x%02X, topic %q) instead of the end", p.typ, p.reason, p.topic)
	}
	c.checkEnd(err)
}

// checkEnd holds that a read failed because the gateway has closed.
func (c *client) checkEnd(err error) {
	c.t.Helper()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.t.Fatal("the gateway did not close the connection")
	case !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET):
		c.t.Fatalf("read: %v", err)
	}
}

// refused sends a first packet and expects that it is turned away: on MQTT 5 with one of the reasons or in
// silence, on 3.1.1 in silence.
func (e *env) refused(t *testing.T, version byte, first []byte, reasons ...byte) {
	t.Helper()
	c := e.dial(t, version)
	c.send(first)
	p, err := c.read()
	if err != nil {
		c.checkEnd(err)
		return
	}
	if p.typ != tConnack || version != v5 || !slices.Contains(reasons, p.reason) || p.present != 0 {
		t.Errorf("answer of type %d, reason 0x%02X, flags %d", p.typ, p.reason, p.present)
	}
	c.expectClosed()
}

func (c *client) packetID() uint16 {
	c.next++
	return c.next
}

// subscribe subscribes and returns the granted codes.
func (c *client) subscribe(filters ...filter) []byte {
	c.t.Helper()
	return c.subscribeWith(nil, filters...)
}

func (c *client) subscribeWith(props [][]byte, filters ...filter) []byte {
	c.t.Helper()
	id := c.packetID()
	c.send(subscribe(c.version, id, props, filters...))
	p := c.awaitAny(tSuback, id)
	if len(p.codes) != len(filters) {
		c.t.Fatalf("%d codes for %d filters", len(p.codes), len(filters))
	}
	return p.codes
}

func (c *client) unsubscribe(filters ...string) []byte {
	c.t.Helper()
	id := c.packetID()
	c.send(unsubscribe(c.version, id, filters...))
	return c.awaitAny(tUnsuback, id).codes
}

// publish publishes and goes through the whole exchange that the QoS asks for.
func (c *client) publish(p publish) {
	c.t.Helper()
	if p.qos > 0 && p.id == 0 {
		p.id = c.packetID()
	}
	c.send(p.encode(c.version))
	switch p.qos {
	case 1:
		c.await(tPuback, p.id)
	case 2:
		c.await(tPubrec, p.id)
		c.send(ack(tPubrel, p.id, 0))
		c.await(tPubcomp, p.id)
	}
}

// await reads on to a successful acknowledgement and keeps everything else for later.
func (c *client) await(typ byte, id uint16) {
	c.t.Helper()
	if p := c.awaitAny(typ, id); p.reason != 0 {
		c.t.Fatalf("type %d of %d with reason 0x%02X", typ, id, p.reason)
	}
}

// awaitAny is await whatever the reason.
func (c *client) awaitAny(typ byte, id uint16) packet {
	c.t.Helper()
	var later []packet
	for {
		p, err := c.read()
		if err != nil {
			c.t.Fatalf("waiting for type %d of %d: %v", typ, id, err)
		}
		if p.typ == typ && p.id == id {
			c.later = append(later, c.later...)
			return p
		}
		later = append(later, p)
	}
}

// message gives the next packet, which must be a PUBLISH, and acknowledges it to the end.
func (c *client) message() packet {
	c.t.Helper()
	p := c.expect(tPublish)
	c.acknowledge(p)
	return p
}

func (c *client) acknowledge(p packet) {
	c.t.Helper()
	switch p.qos() {
	case 1:
		c.send(ack(tPuback, p.id, 0))
	case 2:
		c.send(ack(tPubrec, p.id, 0))
		c.await(tPubrel, p.id)
		c.send(ack(tPubcomp, p.id, 0))
	}
}

// messages gives the payloads of the next n messages.
func (c *client) messages(n int) []string {
	c.t.Helper()
	var list []string
	for range n {
		list = append(list, c.message().payload)
	}
	return list
}

// ping awaits a PINGRESP; what comes before it is kept.
func (c *client) ping() {
	c.t.Helper()
	c.send(pingreq)
	c.await(tPingresp, 0)
}

// disconnect says goodbye and waits until the gateway has closed.
func (c *client) disconnect() {
	c.t.Helper()
	c.send(disconnect)
	c.expectClosed()
}

// drop ends the connection as a broken network does.
func (c *client) drop() {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.conn.Close()
}

// equal compares and says what differs.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, show(got), show(want))
	}
}

func equalList[T comparable](t *testing.T, what string, got []T, want ...T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, show(got), show(want))
	}
}

func show(v any) string { return fmt.Sprintf("%#v", v) }

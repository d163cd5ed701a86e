package mqtt

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Patience is how long a client waits for an expected packet.
const Patience = 2 * time.Minute

// Client is one connection. It reads only when a method needs a packet, on one goroutine at a time.
type Client struct {
	Conn     net.Conn
	Version  byte
	ID       string        // of the last Connect
	Ack      Packet        // the CONNACK that answered it
	Patience time.Duration // for each packet read or written

	in    *bufio.Reader
	last  uint16   // packet identifier used
	later []Packet // read while another was awaited
	bye   Packet   // the gateway's DISCONNECT
}

// New returns a client of a connection.
func New(conn net.Conn, version byte) *Client {
	return &Client{Conn: conn, Version: version, Patience: Patience, in: bufio.NewReader(conn)}
}

// Dial opens a connection and sends nothing of MQTT. A nil config means plain TCP.
func Dial(addr string, version byte, config *tls.Config) (*Client, error) {
	dialer := &net.Dialer{Timeout: Patience}
	if config == nil {
		conn, err := dialer.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		return New(conn, version), nil
	}
	conn, err := tls.DialWithDialer(dialer, "tcp", addr, config)
	if err != nil {
		return nil, err
	}
	return New(conn, version), nil
}

// Open dials and connects; a refused CONNECT is an error.
func Open(addr string, o Connect, config *tls.Config) (*Client, error) {
	c, err := Dial(addr, cmp.Or(o.Version, V4), config)
	if err != nil {
		return nil, err
	}
	if err := c.Enter(o); err != nil {
		c.Drop()
		return nil, err
	}
	return c, nil
}

// Enter is Connect, with an error if the CONNECT is refused.
func (c *Client) Enter(o Connect) error {
	ack, err := c.Connect(o)
	if err == nil && ack.Reason != 0 {
		err = fmt.Errorf("connect %q on %d: %v", o.ID, c.Version, ack)
	}
	return err
}

// Send writes frames as they are.
func (c *Client) Send(frames ...[]byte) error {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.Patience))
	_, err := c.Conn.Write(slices.Concat(frames...))
	return err
}

// ReadFrame returns the next frame as received: its first byte and its body.
func (c *Client) ReadFrame() (first byte, body []byte, err error) {
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.Patience))
	first, body, _, err = c.readFrame()
	return first, body, err
}

func (c *Client) readFrame() (first byte, body []byte, size int, err error) {
	if first, err = c.in.ReadByte(); err != nil {
		return 0, nil, 0, err
	}
	length, n := 0, 0
	for more := true; more; n++ {
		b, err := c.in.ReadByte()
		if err != nil {
			return 0, nil, 0, err
		}
		length |= int(b&0x7F) << (7 * n)
		more = b >= 0x80
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.in, body)
	return first, body, 1 + n + length, err
}

// Read returns the next packet, or the error that ended the connection. A packet that a server may not send is an
// error.
func (c *Client) Read() (Packet, error) {
	if len(c.later) > 0 {
		p := c.later[0]
		c.later = c.later[1:]
		return p, nil
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.Patience))
	first, body, size, err := c.readFrame()
	if err != nil {
		return Packet{}, err
	}
	p, err := decode(first, body, c.Version)
	p.Size = size
	if p.Type == DISCONNECT {
		c.bye = p
	}
	if err != nil {
		err = fmt.Errorf("the gateway sent a bad packet (%02X %X): %w", first, body, err)
	}
	return p, err
}

// Await reads up to a packet of the type, with the identifier if it has one, and keeps the others for later.
func (c *Client) Await(typ byte, id uint16) (Packet, error) {
	var later []Packet
	for {
		p, err := c.Read()
		switch {
		case err != nil:
			return p, fmt.Errorf("waiting for type %d of %d: %w", typ, id, err)
		case p.Type == typ && p.ID == id:
			c.later = append(later, c.later...)
			return p, nil
		case p.Type == DISCONNECT:
			return p, fmt.Errorf("waiting for type %d of %d: %v", typ, id, p)
		}
		later = append(later, p)
	}
}

// Connect sends a CONNECT of the connection's version and returns the CONNACK.
func (c *Client) Connect(o Connect) (Packet, error) {
	c.ID, o.Version = o.ID, c.Version
	if err := c.Send(o.Encode()); err != nil {
		return Packet{}, err
	}
	p, err := c.Read()
	if err == nil && p.Type != CONNACK {
		err = fmt.Errorf("%v in place of CONNACK", p)
	}
	c.Ack = p
	return p, err
}

// PacketID returns the next packet identifier.
func (c *Client) PacketID() uint16 {
	if c.last++; c.last == 0 {
		c.last = 1
	}
	return c.last
}

// Publish publishes with the whole exchange of the QoS and returns the gateway's reason code.
func (c *Client) Publish(p Publish) (reason byte, err error) {
	if p.QoS > 0 && p.ID == 0 {
		p.ID = c.PacketID()
	}
	if err := c.Send(p.Encode(c.Version)); err != nil || p.QoS == 0 {
		return 0, err
	}
	answer, err := c.Await(map[byte]byte{1: PUBACK, 2: PUBREC}[p.QoS], p.ID)
	if err != nil || p.QoS == 1 || answer.Reason >= 0x80 {
		return answer.Reason, err
	}
	if err := c.Send(Ack(PUBREL, p.ID, 0)); err != nil {
		return 0, err
	}
	done, err := c.Await(PUBCOMP, p.ID)
	return cmp.Or(answer.Reason, done.Reason), err
}

// Subscribe subscribes and returns the codes of the SUBACK.
func (c *Client) Subscribe(props [][]byte, filters ...Subscription) ([]byte, error) {
	id := c.PacketID()
	if err := c.Send(Subscribe(c.Version, id, props, filters...)); err != nil {
		return nil, err
	}
	p, err := c.Await(SUBACK, id)
	if err == nil && len(p.Codes) != len(filters) {
		err = fmt.Errorf("%d codes for %d filters", len(p.Codes), len(filters))
	}
	return p.Codes, err
}

// Unsubscribe returns the codes of the UNSUBACK.
func (c *Client) Unsubscribe(filters ...string) ([]byte, error) {
	id := c.PacketID()
	if err := c.Send(Unsubscribe(c.Version, id, filters...)); err != nil {
		return nil, err
	}
	p, err := c.Await(UNSUBACK, id)
	return p.Codes, err
}

// Acknowledge runs the exchange for a PUBLISH of the gateway.
func (c *Client) Acknowledge(p Packet) error {
	switch p.QoS() {
	case 1:
		return c.Send(Ack(PUBACK, p.ID, 0))
	case 2:
		if err := c.Send(Ack(PUBREC, p.ID, 0)); err != nil {
			return err
		}
		if _, err := c.Await(PUBREL, p.ID); err != nil {
			return err
		}
		return c.Send(Ack(PUBCOMP, p.ID, 0))
	}
	return nil
}

// Next returns the next packet, which must be a PUBLISH, and acknowledges it.
func (c *Client) Next() (Packet, error) {
	p, err := c.Read()
	if err == nil && p.Type != PUBLISH {
		err = fmt.Errorf("%v in place of PUBLISH", p)
	}
	if err != nil {
		return p, err
	}
	return p, c.Acknowledge(p)
}

// Ping sends a PINGREQ and waits for the PINGRESP; packets before it are kept.
func (c *Client) Ping() error {
	if err := c.Send(Pingreq()); err != nil {
		return err
	}
	_, err := c.Await(PINGRESP, 0)
	return err
}

// ReadToEnd reads until the gateway closes. It returns the DISCONNECT, even if it was read earlier, or the zero Packet if
// there was none.
func (c *Client) ReadToEnd() (bye Packet, err error) {
	for {
		first, body, ended := c.ReadFrame()
		if isTimeout(ended) {
			return c.bye, errors.New("the gateway did not close the connection")
		}
		if ended != nil {
			return c.bye, err
		}
		if first == DISCONNECT<<4 {
			c.bye, err = decode(first, body, V5)
		}
	}
}

// Silence returns an error when the gateway sends anything, or closes, within d.
func (c *Client) Silence(d time.Duration) error {
	_ = c.Conn.SetReadDeadline(time.Now().Add(d))
	switch b, err := c.in.Peek(1); {
	case err == nil:
		return fmt.Errorf("the gateway sent a packet that begins with 0x%02X", b[0])
	case !isTimeout(err):
		return err
	}
	return nil
}

// Drop hangs up the client's connection.
func (c *Client) Drop() { HangUp(c.Conn) }

// HangUp resets a connection, also one over TLS, as a broken network does. An orderly close would hold its port for a
// minute.
func HangUp(conn net.Conn) {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

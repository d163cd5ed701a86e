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

// Patience is how long a client waits for what must come.
const Patience = 30 * time.Second

// Client is one connection. It reads only when it is asked to, by one goroutine at a time.
type Client struct {
	Conn     net.Conn
	Version  byte
	ID       string        // of the last Connect
	Ack      Packet        // the CONNACK that answered it
	Patience time.Duration // for each packet that is read or written

	in    *bufio.Reader
	last  uint16   // packet identifier used
	later []Packet // read while something else was awaited
	bye   Packet   // the gateway's DISCONNECT
}

// New makes a client of a connection.
func New(conn net.Conn, version byte) *Client {
	return &Client{Conn: conn, Version: version, Patience: Patience, in: bufio.NewReader(conn)}
}

// Dial opens a connection without sending anything of MQTT; config may be nil, for plain TCP.
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

// Open dials and connects; a CONNECT that is refused is an error.
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

// Enter is Connect for a CONNECT that has to be accepted.
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

// ReadFrame gives the next frame as it came: its first byte and its body.
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

// Read gives the next packet, or the error that ended the connection; a packet that a server may not send is an error too.
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

// Await reads on to a packet of the type, with the identifier if it has one, and keeps everything else for later.
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

// Connect sends a CONNECT, in the connection's version, and gives what comes back, which is a CONNACK.
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

// PacketID gives the next packet identifier.
func (c *Client) PacketID() uint16 {
	if c.last++; c.last == 0 {
		c.last = 1
	}
	return c.last
}

// Publish publishes, goes through the whole exchange that the QoS asks for, and gives the reason that the gateway answered.
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

// Subscribe subscribes and gives the codes of the SUBACK.
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

// Unsubscribe gives the codes of the UNSUBACK.
func (c *Client) Unsubscribe(filters ...string) ([]byte, error) {
	id := c.PacketID()
	if err := c.Send(Unsubscribe(c.Version, id, filters...)); err != nil {
		return nil, err
	}
	p, err := c.Await(UNSUBACK, id)
	return p.Codes, err
}

// Acknowledge goes through the exchange that a PUBLISH of the gateway asks for.
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

// Next gives the next packet, which is a PUBLISH, and acknowledges it to the end.
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

// Ping sends a PINGREQ and awaits the PINGRESP; what comes before it is kept.
func (c *Client) Ping() error {
	if err := c.Send(Pingreq()); err != nil {
		return err
	}
	_, err := c.Await(PINGRESP, 0)
	return err
}

// ReadToEnd reads until the gateway closes, and gives its DISCONNECT, whatever the version, also when it has been read before;
// the zero Packet is none.
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

// Drop is HangUp for a client.
func (c *Client) Drop() { HangUp(c.Conn) }

// HangUp ends a connection, also one over TLS, as a broken network does: one that is closed in order holds its port for a minute.
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

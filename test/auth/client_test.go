package authtest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long anything that must happen may take on a loaded machine.
const patience = 20 * time.Second

// Reason codes of MQTT 5.
const (
	reasonNotAuthorized  = 0x87
	reasonBadCredentials = 0x86
)

// connect is a CONNECT.
type connect struct {
	id, user string
	password string // sent when it or user is set
	version  byte   // 5 or 4
	keep     bool   // no clean start; on 5 with a session expiry of an hour
	will     string // topic
	willKept bool   // retained
	method   string // authentication method; the password travels as its data
	tls      *tls.Config
}

// client is an MQTT client that does what no library lets one do. A goroutine reads; PUBLISHes are acknowledged
// and kept in got.
type client struct {
	t       testing.TB
	conn    net.Conn
	version byte
	frames  chan []byte // first byte and body; closed with the connection
	wmu     sync.Mutex
	next    uint16
	aliases map[uint16]string // of the reader

	mu  sync.Mutex // guards below
	got []delivery
	bye []byte // the gateway's DISCONNECT
}

type delivery struct {
	topic, payload string
	retain         bool
}

// open connects and returns the CONNACK's code.
func open(t testing.TB, addr string, c connect) (*client, byte) {
	t.Helper()
	m, body := tryOpen(t, addr, c)
	if body == nil {
		t.Fatalf("connect %s: no CONNACK", c.id)
	}
	return m, body[1]
}

// tryOpen is open for a CONNECT that may go without answer. It returns the body of the CONNACK.
func tryOpen(t testing.TB, addr string, c connect) (*client, []byte) {
	t.Helper()
	var conn net.Conn
	var err error
	dialer := &net.Dialer{Timeout: patience}
	if c.tls != nil {
		conn, err = tls.DialWithDialer(dialer, "tcp", addr, c.tls)
	} else {
		conn, err = dialer.Dial("tcp", addr)
	}
	if err != nil {
		t.Fatalf("connect %s: %v", c.id, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := &client{t: t, conn: conn, version: c.version, frames: make(chan []byte, 4096), aliases: map[uint16]string{}}
	go m.read()
	m.send(c.frame())
	f, ok := m.frame()
	if !ok || f[0] != 0x20 {
		return m, nil
	}
	return m, f[1:]
}

// mustOpen is open for a client that has to be let in.
func mustOpen(t testing.TB, addr string, c connect) *client {
	t.Helper()
	m, code := open(t, addr, c)
	if code != 0 {
		t.Fatalf("connect %s on %d: refused with 0x%02x", c.id, c.version, code)
	}
	return m
}

func (c *connect) frame() []byte {
	flags := byte(2)
	if c.keep {
		flags = 0
	}
	b := append(text("MQTT"), c.version, 0, 0, 60)
	at := 7
	if c.version == 5 {
		var props []byte
		if c.keep {
			props = binary.BigEndian.AppendUint32(append(props, 0x11), 3600)
		}
		props = append(props, 0x22, 0, 16) // topic alias maximum
		if c.method != "" {
			props = append(append(props, 0x15), text(c.method)...)
			props = append(append(props, 0x16), text(c.password)...)
		}
		b = append(b, counted(props)...)
	}
	b = append(b, text(c.id)...)
	if c.will != "" {
		flags |= 4 | 1<<3
		if c.willKept {
			flags |= 1 << 5
		}
		if c.version == 5 {
			b = append(b, 0)
		}
		b = append(append(b, text(c.will)...), text("will")...)
	}
	if c.version == 4 && c.user == "" && c.password != "" {
		c.user = c.id // 3.1.1 has no password without a user name
	}
	if c.user != "" {
		flags |= 0x80
		b = append(b, text(c.user)...)
	}
	if c.method == "" && c.password != "" {
		flags |= 0x40
		b = append(b, text(c.password)...)
	}
	b[at] = flags
	return packet(0x10, b)
}

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// counted puts the length in front.
func counted(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }

func packet(first byte, body []byte) []byte { return append([]byte{first}, counted(body)...) }

func (m *client) send(b []byte) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	_, _ = m.conn.Write(b) // a refused connection may be closed already: reading tells
}

func (m *client) read() {
	defer close(m.frames)
	r := bufio.NewReader(m.conn)
	for {
		first, err := r.ReadByte()
		if err != nil {
			return
		}
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return
		}
		f := make([]byte, 1+n)
		f[0] = first
		if _, err := io.ReadFull(r, f[1:]); err != nil {
			return
		}
		if first>>4 == 3 {
			m.take(f)
			continue
		}
		if first == 0xE0 {
			m.mu.Lock()
			m.bye = f
			m.mu.Unlock()
		}
		m.frames <- f
	}
}

// take keeps a PUBLISH and acknowledges it.
func (m *client) take(f []byte) {
	body := f[1:]
	n := int(binary.BigEndian.Uint16(body))
	topic, body := string(body[2:2+n]), body[2+n:]
	if qos := f[0] >> 1 & 3; qos > 0 {
		m.send(packet(0x40, body[:2]))
		body = body[2:]
	}
	if m.version == 5 {
		length, size := binary.Uvarint(body)
		if alias := aliasIn(body[size : size+int(length)]); alias != 0 && topic != "" {
			m.aliases[alias] = topic
		} else if alias != 0 {
			topic = m.aliases[alias]
		}
		body = body[size+int(length):]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, delivery{topic, string(body), f[0]&1 != 0})
}

// aliasIn finds the topic alias among the properties of a PUBLISH, 0 for none.
func aliasIn(p []byte) (alias uint16) {
	for len(p) > 0 {
		id := p[0]
		p = p[1:]
		switch id {
		case 0x23:
			alias = binary.BigEndian.Uint16(p)
			p = p[2:]
		case 0x01:
			p = p[1:]
		case 0x02:
			p = p[4:]
		case 0x0B:
			_, n := binary.Uvarint(p)
			p = p[n:]
		case 0x26:
			p = p[2+binary.BigEndian.Uint16(p):]
			p = p[2+binary.BigEndian.Uint16(p):]
		default: // strings and binary data
			p = p[2+binary.BigEndian.Uint16(p):]
		}
	}
	return alias
}

// frame waits for the next frame that is no PUBLISH; false when the connection has ended.
func (m *client) frame() ([]byte, bool) {
	select {
	case f, ok := <-m.frames:
		return f, ok
	case <-time.After(patience):
		m.t.Error("the gateway neither answers nor closes")
		return nil, false
	}
}

// publish is a PUBLISH.
type publish struct {
	topic, payload string
	qos            byte
	retain         bool
	alias          byte // MQTT 5
}

// errClosed is what a connection that the gateway ends answers.
var errClosed = errors.New("closed")

// publish sends, and returns the code of the acknowledgement; with QoS 0 nothing is waited for.
func (m *client) publish(p publish) (code byte, err error) {
	m.t.Helper()
	b := text(p.topic)
	m.next++
	if p.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, m.next)
	}
	if m.version == 5 {
		var props []byte
		if p.alias > 0 {
			props = []byte{0x23, 0, p.alias}
		}
		b = append(b, counted(props)...)
	}
	first := 0x30 | p.qos<<1
	if p.retain {
		first |= 1
	}
	m.send(packet(first, append(b, p.payload...)))
	if p.qos == 0 {
		return 0, nil
	}
	code, err = m.acknowledged(0x30 + 0x10*p.qos)
	if err == nil && p.qos == 2 && code < 0x80 {
		m.send(packet(0x62, binary.BigEndian.AppendUint16(nil, m.next)))
		code, err = m.acknowledged(0x70)
	}
	return code, err
}

// mustPublish is publish for what has to be accepted.
func (m *client) mustPublish(p publish) {
	m.t.Helper()
	if code, err := m.publish(p); err != nil || code >= 0x80 {
		m.t.Fatalf("publish %+v: 0x%02x, %v", p, code, err)
	}
}

// acknowledged waits for the acknowledgement of the last packet.
func (m *client) acknowledged(first byte) (code byte, err error) {
	f, ok := m.frame()
	switch {
	case !ok || f[0] == 0xE0:
		return 0, errClosed
	case f[0] != first || !bytes.Equal(f[1:3], binary.BigEndian.AppendUint16(nil, m.next)):
		return 0, fmt.Errorf("got % x, want 0x%02x for %d", f, first, m.next)
	case first == 0x90:
		return f[len(f)-1], nil
	case len(f) > 3:
		return f[3], nil
	}
	return 0, nil
}

// subscribe returns the SUBACK's code.
func (m *client) subscribe(filter string) byte {
	m.t.Helper()
	m.next++
	b := binary.BigEndian.AppendUint16(nil, m.next)
	if m.version == 5 {
		b = append(b, 0)
	}
	m.send(packet(0x82, append(append(b, text(filter)...), 1)))
	code, err := m.acknowledged(0x90)
	if err != nil {
		m.t.Fatalf("subscribe %s: %v", filter, err)
	}
	return code
}

// authenticate sends AUTH 0x19 and returns the reason of the AUTH that answers.
func (m *client) authenticate(token string) (code byte, err error) {
	props := append(append([]byte{0x15}, text("CELL-JWT")...), 0x16)
	props = append(props, text(token)...)
	m.send(packet(0xF0, append([]byte{0x19}, counted(props)...)))
	f, ok := m.frame()
	if !ok || f[0] != 0xF0 {
		return 0, errClosed
	}
	if len(f) > 1 {
		code = f[1]
	}
	return code, nil
}

// ended waits until the gateway has closed, and returns the reason and the reason string of its DISCONNECT, 0 and
// "" for none.
func (m *client) ended() (reason byte, why string) {
	m.t.Helper()
	for open := true; open; {
		_, open = m.frame()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.bye) < 2 {
		return 0, ""
	}
	if i := bytes.IndexByte(m.bye[2:], 0x1F); i >= 0 {
		why = string(m.bye[2+i+3:])
	}
	return m.bye[1], why
}

// alive checks that the gateway answers a PINGREQ.
func (m *client) alive() bool {
	m.send([]byte{0xC0, 0})
	f, ok := m.frame()
	return ok && f[0] == 0xD0
}

// leave closes without a DISCONNECT.
func (m *client) leave() { _ = m.conn.Close() }

// goodbye sends DISCONNECT and closes.
func (m *client) goodbye() {
	m.send([]byte{0xE0, 0})
	m.leave()
}

// received is what has been delivered so far.
func (m *client) received() []delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]delivery(nil), m.got...)
}

// await waits for a message whose topic begins with prefix.
func (m *client) await(prefix string) delivery {
	m.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		for _, got := range m.received() {
			if strings.HasPrefix(got.topic, prefix) {
				return got
			}
		}
	}
	m.t.Fatalf("nothing on %s within %v but %v", prefix, patience, m.received())
	return delivery{}
}

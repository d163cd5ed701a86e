package broker

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/frame"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// The wire-visible pitfalls of mochi as a server. Each scenario is played against mochi, where it must show the
// defect (so that it can fail), and against this package, where it must not. DECISIONS.md has the others.

// pitfall drives a client, already connected with MQTT 5 or 3.1.1 as "lab client", and reports whether the
// server did right. dial connects further clients.
type pitfall struct {
	name    string
	version byte
	right   func(c *client, dial func(id string, o connectOptions) *client) bool
}

const refusedTopic = "$refused/x" // nobody may publish there, on either server

var pitfalls = []pitfall{
	{"a refused QoS 1 PUBLISH is not acknowledged as a success", 5, func(c *client, _ func(string, connectOptions) *client) bool {
		c.send(publishFrame(5, 1, 1, refusedTopic, "x"))
		first, body, err := c.read()
		return err == nil && first == 0x40 && len(body) > 2 && body[2] == frame.ReasonNotAuthorized
	}},
	{"on 3.1.1 neither", 4, func(c *client, _ func(string, connectOptions) *client) bool {
		c.send(publishFrame(4, 1, 1, refusedTopic, "x"))
		_, _, err := c.read()
		return errors.Is(err, io.EOF)
	}},
	{"a refused QoS 2 PUBLISH is answered by PUBREC", 5, func(c *client, _ func(string, connectOptions) *client) bool {
		c.send(publishFrame(5, 2, 1, refusedTopic, "x"))
		first, _, err := c.read()
		return err == nil && first == 0x50
	}},
	{"a truncated SUBSCRIBE is a malformed packet", 5, func(c *client, _ func(string, connectOptions) *client) bool {
		c.send(packet(0x82, slices.Concat([]byte{0, 1, 0}, text("a/b"))))
		first, body, err := c.read()
		return err == nil && first == 0xE0 && body[0] == frame.ReasonMalformed
	}},
	{"a filter a+/b is refused", 5, func(c *client, _ func(string, connectOptions) *client) bool { return refuses(c, "a+/b") }},
	{"a filter foo# is refused", 5, func(c *client, _ func(string, connectOptions) *client) bool { return refuses(c, "foo#") }},
	{"v1/+/# matches v1/X", 5, func(c *client, _ func(string, connectOptions) *client) bool {
		c.send(subscribeFrame(5, 1, "v1/+/#", 0))
		c.expect(0x90)
		c.send(publishFrame(5, 0, 0, "v1/X", "x"), publishFrame(5, 0, 0, "v1/X/end", "end"))
		first, body, err := c.read()
		return err == nil && first>>4 == frame.TypePublish && !strings.HasSuffix(string(body), "end")
	}},
	{"a SUBSCRIBE may use the identifier of an unacknowledged delivery", 4, func(c *client, _ func(string, connectOptions) *client) bool {
		id := deliver(c)
		c.send(subscribeFrame(4, id, "other", 1))
		first, body, err := c.read()
		return err == nil && first == 0x90 && body[2] <= 2
	}},
	{"a PUBLISH with the identifier of an unacknowledged delivery leaves that alone", 4, func(c *client, dial func(string, connectOptions) *client) bool {
		id := deliver(c)
		c.send(publishFrame(4, 1, id, "nobody", "y"))
		c.expect(0x40)
		_ = c.c.Close()
		again := dial("lab client", connectOptions{keepSession: true})
		again.send(subscribeFrame(4, 9, "other", 0)) // its SUBACK ends the wait if nothing is resent
		for {
			first, _, err := again.read()
			if err != nil || first == 0x90 {
				return false
			}
			if first>>4 == frame.TypePublish {
				return true
			}
		}
	}},
	{"a will is checked as a PUBLISH is", 5, func(_ *client, dial func(string, connectOptions) *client) bool {
		return dial("will client", connectOptions{will: slices.Concat([]byte{0}, text(refusedTopic), text("x"))}) == nil
	}},
	{"CONNACK announces the topic alias maximum and the maximum packet size", 5, func(_ *client, dial func(string, connectOptions) *client) bool {
		c := dial("announce", connectOptions{})
		return strings.Contains(c.connackProps, "\x22\x00") && strings.Contains(c.connackProps, "\x27\x00")
	}},
}

func refuses(c *client, filter string) bool {
	c.send(subscribeFrame(5, 1, filter, 0))
	first, body, err := c.read()
	return err == nil && (first == 0xE0 || (first == 0x90 && body[len(body)-1] >= 0x80))
}

// deliver has the server deliver a QoS 1 message to c, and gives the identifier that it used.
func deliver(c *client) uint16 {
	c.t.Helper()
	c.send(subscribeFrame(4, 1, "loop", 1))
	c.expect(0x90)
	c.send(publishFrame(4, 1, 100, "loop", "x"))
	var id uint16
	for acked := false; id == 0 || !acked; {
		first, body, err := c.read()
		must(c.t, err)
		if acked = acked || first == 0x40; first>>4 == frame.TypePublish {
			id = uint16(body[6])<<8 | uint16(body[7])
		}
	}
	return id
}

func TestPitfalls(t *testing.T) {
	t.Parallel()
	for _, p := range pitfalls {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			if !p.play(t, h.b.Addrs()["lab"].String()) {
				t.Error("this server has the defect")
			}
			if p.play(t, plainMochi(t)) {
				t.Error("mochi does not show the defect: the scenario cannot fail")
			}
		})
	}
}

func (p *pitfall) play(t *testing.T, address string) bool {
	dial := func(id string, o connectOptions) *client {
		nc, err := net.Dial("tcp", address)
		must(t, err)
		t.Cleanup(func() { _ = nc.Close() })
		c := newClient(t, nc)
		if p.version == 5 {
			o.props = append(o.props, 0x11, 0, 0, 1, 0) // session expiry
		}
		c.send(connectFrame(id, p.version, o))
		first, body, err := c.read()
		if err != nil || first != 0x20 || body[1] != 0 {
			return nil
		}
		c.connackProps = string(body[2:])
		return c
	}
	return p.right(dial("lab client", connectOptions{keepSession: true}), dial)
}

// mochiPolicy refuses refusedTopic as a mochi hook may be thought to: by an error from OnPublish.
type mochiPolicy struct{ mqtt.HookBase }

func (mochiPolicy) ID() string { return "policy" }

func (mochiPolicy) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck || b == mqtt.OnPublish
}

func (mochiPolicy) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (mochiPolicy) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (mochiPolicy) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	switch {
	case pk.TopicName != refusedTopic:
		return pk, nil
	case pk.FixedHeader.Qos == 2:
		return pk, packets.ErrNotAuthorized
	default:
		return pk, errors.New("refused")
	}
}

// plainMochi serves MQTT by mochi's own connection handling, with a recover so that its panics leave the test alive.
func plainMochi(t *testing.T) string {
	t.Helper()
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	must(t, server.AddHook(new(mochiPolicy), nil))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = recover() }()
				_ = server.EstablishConnection("test", nc)
			}()
		}
	}()
	return ln.Addr().String()
}

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
	"cellgate/test/check"
	testclient "cellgate/test/mqtt"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// The wire-visible pitfalls of mochi as a server. Each scenario runs against mochi, where it must show the defect, and
// against this package, where it must not. DECISIONS.md lists the others.

// pitfall drives a client, connected with MQTT 5 or 3.1.1 as "lab client", and reports whether the server behaves
// correctly. dial connects further clients.
type pitfall struct {
	name    string
	version byte
	right   func(c *client, dial func(id string, o testclient.Connect) *client) bool
}

const refusedTopic = "$refused/x" // no client may publish there on either server

var pitfalls = []pitfall{
	{"a refused QoS 1 PUBLISH is not acknowledged as a success", 5, func(c *client, _ func(string, testclient.Connect) *client) bool {
		c.Send(publishFrame(5, 1, 1, refusedTopic, "x"))
		first, body, err := c.ReadFrame()
		return err == nil && first == 0x40 && len(body) > 2 && body[2] == frame.ReasonNotAuthorized
	}},
	{"on 3.1.1 neither", 4, func(c *client, _ func(string, testclient.Connect) *client) bool {
		c.Send(publishFrame(4, 1, 1, refusedTopic, "x"))
		_, _, err := c.ReadFrame()
		return errors.Is(err, io.EOF)
	}},
	{"a refused QoS 2 PUBLISH is answered by PUBREC", 5, func(c *client, _ func(string, testclient.Connect) *client) bool {
		c.Send(publishFrame(5, 2, 1, refusedTopic, "x"))
		first, _, err := c.ReadFrame()
		return err == nil && first == 0x50
	}},
	{"a truncated SUBSCRIBE is a malformed packet", 5, func(c *client, _ func(string, testclient.Connect) *client) bool {
		c.Send(testclient.Frame(0x82, slices.Concat([]byte{0, 1, 0}, testclient.Text("a/b"))))
		first, body, err := c.ReadFrame()
		return err == nil && first == 0xE0 && body[0] == frame.ReasonMalformed
	}},
	{"a filter a+/b is refused", 5, func(c *client, _ func(string, testclient.Connect) *client) bool { return refuses(c, "a+/b") }},
	{"a filter foo# is refused", 5, func(c *client, _ func(string, testclient.Connect) *client) bool { return refuses(c, "foo#") }},
	{"v1/+/# matches v1/X", 5, func(c *client, _ func(string, testclient.Connect) *client) bool {
		c.Send(subscribeFrame(5, 1, "v1/+/#", 0))
		c.ExpectFrame(0x90)
		c.Send(publishFrame(5, 0, 0, "v1/X", "x"), publishFrame(5, 0, 0, "v1/X/end", "end"))
		first, body, err := c.ReadFrame()
		return err == nil && first>>4 == frame.TypePublish && !strings.HasSuffix(string(body), "end")
	}},
	{"a SUBSCRIBE may use the identifier of an unacknowledged delivery", 4, func(c *client, _ func(string, testclient.Connect) *client) bool {
		id := deliver(c)
		c.Send(subscribeFrame(4, id, "other", 1))
		first, body, err := c.ReadFrame()
		return err == nil && first == 0x90 && body[2] <= 2
	}},
	{"a PUBLISH with the identifier of an unacknowledged delivery leaves that alone", 4, func(c *client, dial func(string, testclient.Connect) *client) bool {
		id := deliver(c)
		c.Send(publishFrame(4, 1, id, "nobody", "y"))
		c.ExpectFrame(0x40)
		_ = c.Conn.Close()
		again := dial("lab client", testclient.Connect{Keep: true})
		again.Send(subscribeFrame(4, 9, "other", 0)) // its SUBACK ends the wait if nothing is resent
		for {
			first, _, err := again.ReadFrame()
			if err != nil || first == 0x90 {
				return false
			}
			if first>>4 == frame.TypePublish {
				return true
			}
		}
	}},
	{"a will is checked as a PUBLISH is", 5, func(_ *client, dial func(string, testclient.Connect) *client) bool {
		return dial("will client", testclient.Connect{Will: &testclient.Will{Topic: refusedTopic, Payload: "x"}}) == nil
	}},
	{"CONNACK announces the topic alias maximum and the maximum packet size", 5, func(_ *client, dial func(string, testclient.Connect) *client) bool {
		c := dial("announce", testclient.Connect{})
		_, aliases := c.Ack.Prop(testclient.TopicAliasMaximum)
		_, size := c.Ack.Prop(testclient.MaximumPacketSize)
		return aliases && size
	}},
}

func refuses(c *client, filter string) bool {
	c.Send(subscribeFrame(5, 1, filter, 0))
	first, body, err := c.ReadFrame()
	return err == nil && (first == 0xE0 || (first == 0x90 && body[len(body)-1] >= 0x80))
}

// deliver has the server send a QoS 1 message to c, and returns its packet identifier.
func deliver(c *client) uint16 {
	c.TB.Helper()
	c.Send(subscribeFrame(4, 1, "loop", 1))
	c.ExpectFrame(0x90)
	c.Send(publishFrame(4, 1, 100, "loop", "x"))
	var id uint16
	for acked := false; id == 0 || !acked; {
		first, body, err := c.ReadFrame()
		check.OK(c.TB, err)
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
	dial := func(id string, o testclient.Connect) *client {
		c := testclient.DialT(t, address, p.version, nil)
		o.ID = id
		if p.version == 5 {
			o.Props = append(o.Props, testclient.Number(testclient.SessionExpiry, 256))
		}
		if ack, err := c.Connect(o); err != nil || ack.Reason != 0 {
			return nil
		}
		return c
	}
	return p.right(dial("lab client", testclient.Connect{Keep: true}), dial)
}

// mochiPolicy refuses refusedTopic with an error from OnPublish, the obvious way in a mochi hook.
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

// plainMochi serves MQTT with mochi's own connection handling. It recovers, so that mochi's panics do not end the test.
func plainMochi(t *testing.T) string {
	t.Helper()
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	check.OK(t, server.AddHook(new(mochiPolicy), nil))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
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

package broker

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/test/mqtt"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"
)

// Real clients of both versions: a service subscribes, vehicles publish with every QoS.

func TestPaho311(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	got := make(chan string, 16)
	service := pahoV3(t, h, "lab", "service", func(_ mqtt3.Client, m mqtt3.Message) { got <- string(m.Payload()) })
	wait(t, service.Subscribe("v1/+/up/#", 2, nil))
	car := pahoV3(t, h, "cars", testVIN, nil)
	for qos := range byte(3) {
		wait(t, car.Publish("v1/"+testVIN+"/up/telemetry", qos, false, fmt.Sprint("qos ", qos)))
	}
	var all []string
	for range 3 {
		all = append(all, receive(t, got))
	}
	slices.Sort(all)
	if want := []string{"qos 0", "qos 1", "qos 2"}; !slices.Equal(all, want) {
		t.Errorf("received %q", all)
	}
	car.Disconnect(100)
	service.Disconnect(100)
}

func pahoV3(t *testing.T, h *harness, listener, id string, on mqtt3.MessageHandler) mqtt3.Client {
	t.Helper()
	o := mqtt3.NewClientOptions().AddBroker("tcp://" + h.b.Addrs()[listener].String()).SetClientID(id).
		SetProtocolVersion(4).SetAutoReconnect(false).SetOrderMatters(false)
	if on != nil {
		o.SetDefaultPublishHandler(on)
	}
	c := mqtt3.NewClient(o)
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func wait(t *testing.T, token mqtt3.Token) {
	t.Helper()
	if !token.WaitTimeout(testPatience) {
		t.Fatal("no answer")
	}
	must(t, token.Error())
}

func receive(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(testPatience):
		t.Fatal("nothing received")
		return ""
	}
}

func TestPaho5(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	got := make(chan string, 16)
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	service := pahoV5(ctx, t, h, "lab", "service", func(p *paho.Publish) {
		got <- fmt.Sprintf("%s %s %v", p.Payload, p.Properties.User.Get("trip"), p.Properties.SubscriptionIdentifier != nil)
	})
	_, err := service.Subscribe(ctx, &paho.Subscribe{
		Subscriptions: []paho.SubscribeOptions{{Topic: "v1/+/up/#", QoS: 2}, {Topic: "v1/" + testVIN + "/#", QoS: 1}},
	})
	must(t, err)
	car := pahoV5(ctx, t, h, "cars", testVIN, nil)
	for qos := range byte(3) {
		_, err := car.Publish(ctx, &paho.Publish{
			Topic: "v1/" + testVIN + "/up/telemetry", QoS: qos, Payload: []byte(fmt.Sprint("qos ", qos)),
			Properties: &paho.PublishProperties{User: paho.UserProperties{{Key: "trip", Value: "7"}}},
		})
		must(t, err)
	}
	var all []string
	for range 3 { // one copy each, although two filters match
		all = append(all, receive(t, got))
	}
	slices.Sort(all)
	if want := []string{"qos 0 7 false", "qos 1 7 false", "qos 2 7 false"}; !slices.Equal(all, want) {
		t.Errorf("received %q", all)
	}
	if _, err := car.Publish(ctx, &paho.Publish{Topic: "v1/other/up/x", QoS: 1}); err == nil || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("another's topic: %v", err)
	}
	must(t, car.Disconnect(&paho.Disconnect{}))
	must(t, service.Disconnect(&paho.Disconnect{}))
}

func pahoV5(ctx context.Context, t *testing.T, h *harness, listener, id string, on func(*paho.Publish)) *paho.Client {
	t.Helper()
	nc, err := net.Dial("tcp", h.b.Addrs()[listener].String())
	must(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	// paho writes a packet in several pieces, and its pings from a goroutine of their own.
	cfg := paho.ClientConfig{Conn: packets.NewThreadSafeConn(nc)}
	if on != nil {
		cfg.OnPublishReceived = []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) { on(p.Packet); return true, nil },
		}
	}
	c := paho.NewClient(cfg)
	ack, err := c.Connect(ctx, &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 30})
	must(t, err)
	if ack.Properties.ReceiveMaximum == nil || *ack.Properties.ReceiveMaximum != 64 {
		t.Errorf("receive maximum %v", ack.Properties.ReceiveMaximum)
	}
	return c
}

// What is queued for a client that is away comes in order when it is back, also over a restart of the gateway.
func TestResume(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		dir := t.TempDir()
		h := openHarness(t, dir)
		o := mqtt.Connect{Keep: true, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)}}
		service := h.connect("lab", "service", version, o)
		service.Send(subscribeFrame(version, 1, "v1/+/up/#", 1))
		service.ExpectFrame(0x90)
		must(t, service.Conn.Close())
		eventually(t, "the service is gone", func() bool { return !h.sessions.Connected(labKey("service")) })
		car := h.connect("cars", testVIN, version, mqtt.Connect{})
		for i := uint16(1); i <= 5; i++ {
			car.Send(publishFrame(version, 1, i, "v1/"+testVIN+"/up/x", fmt.Sprint("message ", i)))
			car.ExpectFrame(0x40, puback(i)...)
		}
		h.stop()
		h = openHarness(t, dir)
		service = h.dial("lab")
		service.Send(connectFrame("service", version, o))
		first, body, err := service.ReadFrame()
		if err != nil || first != 0x20 || body[0] != 1 || body[1] != 0 {
			t.Fatalf("session not resumed: %#x % x, %v", first, body, err)
		}
		for i := 1; i <= 5; i++ {
			first, body, err := service.ReadFrame()
			if err != nil || first>>4 != frame.TypePublish || !strings.HasSuffix(string(body), fmt.Sprint("message ", i)) {
				t.Fatalf("message %d: %#x %q, %v", i, first, body, err)
			}
		}
	})
}

// A QoS 2 PUBLISH whose PUBREC was lost with the gateway is sent again and is not journaled again.
func TestQoS2OverRestart(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		dir := t.TempDir()
		h := openHarness(t, dir)
		o := mqtt.Connect{Keep: true, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)}}
		car := h.connect("cars", testVIN, version, o)
		f := publishFrame(version, 2, 7, "v1/"+testVIN+"/up/alarm", "x")
		car.Send(f)
		car.ExpectFrame(0x50, puback(7)...)
		h.stop()
		h = openHarness(t, dir)
		car = h.connect("cars", testVIN, version, o)
		f[0] |= 8
		car.Send(f)
		car.ExpectFrame(0x50, puback(7)...)
		car.Send(frame.AppendAck(nil, frame.TypePubrel, 7, 0, version))
		car.ExpectFrame(0x70, puback(7)...)
		car.Send(frame.AppendAck(nil, frame.TypePubrel, 7, 0, version)) // and once more
		car.ExpectFrame(0x70)
		if last := h.journal.Last(); last != 2 {
			t.Errorf("%d records, want PUBLISH and PUBREL", last)
		}
	})
}

func TestWill(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		service := h.connect("lab", "service", version, mqtt.Connect{})
		service.Send(subscribeFrame(version, 1, "v1/+/up/gone", 1))
		service.ExpectFrame(0x90)
		o := mqtt.Connect{Will: &mqtt.Will{Topic: "v1/" + testVIN + "/up/gone", Payload: "gone"}}
		h.connect("cars", testVIN, version, o).Send([]byte{0xE0, 0}) // no will
		eventually(t, "the vehicle is gone", func() bool { return !h.sessions.Connected(testVIN) })
		must(t, h.connect("cars", testVIN, version, o).Conn.Close())
		first, body, err := service.ReadFrame()
		if err != nil || first>>4 != frame.TypePublish || !strings.HasSuffix(string(body), "gone") {
			t.Fatalf("no will but %#x %q, %v", first, body, err)
		}
		if recs := h.records(1); len(recs) != 1 {
			t.Errorf("%d wills", len(recs))
		}
	})
}

// Packet identifiers of the two directions are independent: the client's N does not touch ours.
func TestIdentifiersOfBothDirections(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := h.connect("lab", "both", version, mqtt.Connect{})
		c.Send(subscribeFrame(version, 1, "a/#", 1))
		c.ExpectFrame(0x90)
		c.Send(publishFrame(version, 1, 1, "a/b", "x"))
		var id []byte
		for len(id) == 0 {
			first, body, err := c.ReadFrame()
			must(t, err)
			if first>>4 == frame.TypePublish {
				id = body[5:7] // behind the topic
			}
		}
		again := publishFrame(version, 1, uint16(id[0])<<8|uint16(id[1]), "c/d", "y")
		c.Send(again, subscribeFrame(version, uint16(id[0])<<8|uint16(id[1]), "e/f", 1))
		answers := map[byte]bool{}
		for !answers[0x40] || !answers[0x90] { // in whatever order
			first, _, err := c.ReadFrame()
			must(t, err)
			answers[first] = true
		}
		info, _ := h.sessions.Get(labKey("both"))
		if info.Inflight != 1 {
			t.Errorf("%d messages in flight", info.Inflight)
		}
	})
}

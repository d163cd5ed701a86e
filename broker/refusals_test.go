package broker

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// Refused clients that stay connected hold none of the places for computing handshakes.
func TestRefusedClientsHoldNoPlace(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := 40 * cap(h.b.gate.places) // each could hold a place for lingerTime
	refused := make([]*client, n)
	for i := range refused {
		refused[i] = h.dial("tokens")
		refused[i].Send(connectFrame(testVIN, 4, mqtt.Connect{User: testVIN, Password: "wrong"}))
	}
	begun := time.Now()
	for _, c := range refused {
		if code := c.Connack(); code == 0 {
			t.Fatal("accepted")
		}
	}
	if took := time.Since(begun); took > time.Duration(n/cap(h.b.gate.places))*lingerTime/2 {
		t.Errorf("%d refusals took %v: they wait for one another's clients", n, took)
	}
}

// textOf returns the reason string of a packet.
func textOf(p mqtt.Packet) string {
	text, _ := p.Prop(mqtt.ReasonString)
	return text.Value
}

// A CONNECT above max_connect_packet is answered as soon as its properties are there: on MQTT 5 with CONNACK 0x95, which
// names the limit, on 3.1.1 by closing. Both are counted.
func TestConnectTooLarge(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.MaxConnectPacket = 600 })
	for name, tt := range map[string]struct {
		o    mqtt.Connect
		cut  int // bytes that never arrive
		text bool
	}{
		"will":             {o: mqtt.Connect{Will: &mqtt.Will{Topic: "v1/" + testVIN + "/up/x", Payload: strings.Repeat("x", 5000)}}, text: true},
		"rest never comes": {o: mqtt.Connect{Password: strings.Repeat("x", 5000)}, cut: 4900, text: true},
		"small answer":     {o: mqtt.Connect{Password: strings.Repeat("x", 5000), Props: [][]byte{mqtt.Number(mqtt.MaximumPacketSize, 10)}}},
		"no answer fits":   {o: mqtt.Connect{Password: strings.Repeat("x", 5000), Props: [][]byte{mqtt.Number(mqtt.MaximumPacketSize, 4)}}},
		"large properties": {o: mqtt.Connect{Props: [][]byte{mqtt.User("a", strings.Repeat("x", 5000))}}, text: true},
		"false properties": {o: mqtt.Connect{Password: strings.Repeat("x", 5000), Props: [][]byte{mqtt.String(mqtt.ReasonString, "x")}}, text: true},
		"just too large":   {o: mqtt.Connect{Will: &mqtt.Will{Topic: "t", Payload: strings.Repeat("x", 580)}}, text: true},
		"very large":       {o: mqtt.Connect{Will: &mqtt.Will{Topic: "t", Payload: strings.Repeat("x", 60_000)}}, text: true},
	} {
		for _, version := range []byte{4, 5} {
			c := h.dial("lab")
			c.Version = version
			o := tt.o
			if version == 4 { // which has no properties, and no password without a user name
				if o.Props, o.User = nil, "u"; o.Will == nil {
					o.Password = strings.Repeat("x", 5000)
				}
			}
			f := connectFrame("lab-1", version, o)
			c.Send(f[:len(f)-tt.cut])
			if version == 4 || name == "no answer fits" {
				c.ExpectClosed()
				continue
			}
			p := c.Expect(mqtt.CONNACK)
			if p.Reason != frame.ReasonPacketTooLarge || strings.Contains(textOf(p), "600 bytes") != tt.text || (p.Size > 10 && !tt.text) {
				t.Errorf("%s: %v %q", name, p, textOf(p))
			}
			c.ExpectClosed()
		}
	}
	if n := h.rejected("connect_too_large"); n != 16 {
		t.Errorf("%v counted", n)
	}
}

// docs/vehicles.md has a row for each code in each packet that the gateway refuses with. The texts are short.
func TestRefusalsAreInTheDocs(t *testing.T) {
	t.Parallel()
	page := check.Read(t, filepath.Join("..", "docs", "vehicles.md"))
	rows := regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(string(page), -1)
	for w, r := range newRefusals() {
		if w == 0 { // services.md has the table of commands
			continue
		}
		packet := map[byte]string{
			frame.TypeConnack: "CONNACK", frame.TypePuback: "PUBACK", frame.TypeSuback: "SUBACK", frame.TypeDisconnect: "DISCONNECT",
		}[r.packet]
		if why(w) == whyPacketID {
			packet = "PUBCOMP"
		}
		documented := slices.ContainsFunc(rows, func(row string) bool {
			columns := strings.Split(row, "|")
			return strings.Contains(columns[1], fmt.Sprintf("0x%02X", r.reason)) && strings.Contains(columns[2], packet)
		})
		if !documented {
			t.Errorf("docs/vehicles.md has no row for %s 0x%02X: %s", packet, r.reason, r.text)
		}
		if len(r.text) > 120 || strings.Contains(r.text, "%d") != (r.limit != nil) {
			t.Errorf("%s 0x%02X: %q", packet, r.reason, r.text)
		}
	}
}

// Every refusal says on MQTT 5 what is refused and what to do, in the packet that has its code.
func TestRefusalsAreExplained(t *testing.T) {
	t.Parallel()
	held := &heldCommands{}
	h := newHarness(t, withCommands(held))
	deep := strings.Repeat("a/", 40) + "a"
	car := func(props ...[]byte) *client {
		return h.connect("tokens", testVIN, 5, mqtt.Connect{User: testVIN, Password: h.token(testVIN), Props: props})
	}
	publish := func(qos byte, topic string) []byte { return publishFrame(5, qos, 1, topic, "{}") }
	for name, tt := range map[string]struct {
		send   []byte
		typ    byte
		reason byte
		says   string
	}{
		"PUBACK topic":      {publish(1, "v1/OTHER/up/x"), mqtt.PUBACK, 0x87, "do not send it again"},
		"PUBREC topic":      {publish(2, "v1/OTHER/up/x"), mqtt.PUBREC, 0x87, "do not send it again"},
		"PUBACK token":      {publish(1, "v1/"+testVIN+"/token"), mqtt.PUBACK, 0x87, "new token is not accepted"},
		"PUBACK levels":     {publish(1, "v1/"+testVIN+"/up/"+deep), mqtt.PUBACK, 0x90, "32 levels"},
		"PUBCOMP":           {mqtt.Ack(mqtt.PUBREL, 9, 0), mqtt.PUBCOMP, 0x92, "treat it as ended"},
		"SUBACK":            {mqtt.Subscribe(5, 2, nil, mqtt.Filter("v1/OTHER/cmd/#", 1)), mqtt.SUBACK, 0x87, "does not permit this filter"},
		"SUBACK levels":     {mqtt.Subscribe(5, 2, nil, mqtt.Filter("v1/"+testVIN+"/cmd/#", 1), mqtt.Filter(deep, 1)), mqtt.SUBACK, 0x8F, "filter 2: the filter has more than 32 levels"},
		"DISCONNECT packet": {append([]byte{0x30, 0x80, 0x80, 0x40}, make([]byte, 10)...), mqtt.DISCONNECT, 0x95, "split it"},
		"DISCONNECT topic":  {publish(1, "a/#"), mqtt.DISCONNECT, 0x90, "wildcard"},
	} {
		for _, props := range [][][]byte{nil, {mqtt.Number(mqtt.RequestProblem, 0)}, {mqtt.Number(mqtt.MaximumPacketSize, 30)}} {
			c := car(props...)
			c.Send(tt.send)
			p := c.Expect(tt.typ)
			reason := p.Reason
			if tt.typ == mqtt.SUBACK {
				reason = p.Codes[len(p.Codes)-1]
			}
			if reason != tt.reason {
				t.Errorf("%s: %v", name, p)
			}
			wants := props == nil || (tt.typ == mqtt.DISCONNECT && props[0][0] == mqtt.RequestProblem)
			if said := strings.Contains(textOf(p), tt.says); said != wants || (!wants && p.Size > 30) {
				t.Errorf("%s, properties %x: %q", name, props, textOf(p))
			}
			c.Drop()
		}
	}
	service := h.connect("lab", "lab-1", 5, mqtt.Connect{})
	service.Send(publish(1, commandTopic))
	(<-held.submitted).answer(frame.ReasonImplementation, "the id is another's: use one of your own")
	if p := service.Expect(mqtt.PUBACK); p.Reason != 0x83 || textOf(p) != "the id is another's: use one of your own" {
		t.Errorf("command: %v %q", p, textOf(p))
	}
	for user, says := range map[string]string{"somebody": "send that VIN, or no user name", testVIN: ""} {
		c := h.dial("tokens")
		c.Version = 5
		c.Send(connectFrame(testVIN, 5, mqtt.Connect{User: user, Password: h.token(testVIN)}))
		if p := c.Expect(mqtt.CONNACK); !strings.Contains(textOf(p), says) || (says != "") != (p.Reason == 0x86) {
			t.Errorf("user name %s: %v %q", user, p, textOf(p))
		}
	}
}

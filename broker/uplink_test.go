package broker

import (
	"testing"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/test/mqtt"
)

func vehicle(h *harness, version byte) *client {
	return h.connect("tokens", testVIN, version, mqtt.Connect{User: testVIN, Password: h.token(testVIN)})
}

func TestPublishQoS1(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := vehicle(h, version)
		topic := "v1/" + testVIN + "/up/telemetry"
		c.Send(publishFrame(version, 0, 0, topic, "zero"), publishFrame(version, 1, 1, topic, "one"),
			publishFrame(version, 1, 2, topic, "two"))
		c.ExpectFrame(0x40, puback(1)...)
		c.ExpectFrame(0x40, puback(2)...)
		if durable := h.journal.Durable(); durable != 3 {
			t.Errorf("acknowledged, but the durable mark is %d", durable)
		}
		for i, r := range h.records(3) {
			if r.Client != testVIN || r.Topic != topic || r.Kind != message.KindPublish {
				t.Errorf("record %d: %+v", i, r)
			}
		}
	})
}

func TestPublishQoS2(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := vehicle(h, version)
		topic := "v1/" + testVIN + "/up/alarm"
		c.Send(publishFrame(version, 2, 9, topic, "x"))
		c.ExpectFrame(0x50, puback(9)...)
		again := publishFrame(version, 2, 9, topic, "x")
		again[0] |= 8 // DUP
		c.Send(again)
		c.ExpectFrame(0x50, puback(9)...)
		c.Send(frame.AppendAck(nil, frame.TypePubrel, 9, 0, version))
		c.ExpectFrame(0x70, puback(9)...)
		recs := h.records(2)
		if recs[0].Kind != message.KindPublish || recs[1].Kind != message.KindRelease {
			t.Errorf("kinds %d, %d", recs[0].Kind, recs[1].Kind)
		}
		if last := h.journal.Last(); last != 2 {
			t.Errorf("%d records: the repetition was journaled", last)
		}
	})
}

func TestRefusedPublish(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	c := vehicle(h, 5)
	own, other := "v1/"+testVIN+"/up/telemetry", "v1/LTEST000000000002/up/telemetry"
	c.Send(publishFrame(5, 0, 0, other, "x"), publishFrame(5, 1, 1, own, "x"), publishFrame(5, 1, 2, other, "x"),
		publishFrame(5, 2, 3, other, "x"), publishFrame(5, 1, 4, own, "x"), publishFrame(5, 1, 5, "$SYS/x", "x"))
	c.ExpectFrame(0x40, puback(1)...)
	c.ExpectAck(mqtt.PUBACK, 2, 0x87)
	c.ExpectAck(mqtt.PUBREC, 3, 0x87)
	c.ExpectFrame(0x40, puback(4)...)
	c.ExpectAck(mqtt.PUBACK, 5, 0x87)
	if last := h.journal.Last(); last != 2 {
		t.Errorf("%d records", last)
	}
	if n := h.rejected("publish_not_authorized"); n != 4 {
		t.Errorf("%v refusals counted", n)
	}
}

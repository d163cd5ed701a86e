package broker

import (
	"fmt"
	"strings"
	"testing"

	"cellgate/broker/frame"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// Messages queued for an absent client arrive in order when it returns, also after a restart of the gateway.
func TestResume(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		dir := t.TempDir()
		h := openHarness(t, dir)
		o := mqtt.Connect{Keep: true, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)}}
		service := h.connect("lab", "service", version, o)
		service.Send(subscribeFrame(version, 1, "v1/+/up/#", 1))
		service.ExpectFrame(0x90)
		check.OK(t, service.Conn.Close())
		check.Eventually(t, "the service is gone", func() bool { return !h.sessions.Connected(labKey("service")) })
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

// A QoS 2 PUBLISH whose PUBREC the restart lost is sent again and not journaled again.
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
		car.Send(frame.AppendAck(nil, frame.TypePubrel, 7, 0, version)) // repeated
		car.ExpectFrame(0x70)
		if last := h.journal.Last(); last != 2 {
			t.Errorf("%d records, want PUBLISH and PUBREL", last)
		}
	})
}

package broker

import (
	"testing"
	"time"

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

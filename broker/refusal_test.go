package broker

import (
	"testing"
	"time"
)

// Clients that stay behind the refusal of their CONNECT take none of the places in which handshakes compute.
func TestRefusedClientsHoldNoPlace(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := 40 * cap(h.b.gate.places) // each would keep a place for lingerTime
	refused := make([]*client, n)
	for i := range refused {
		refused[i] = h.dial("tokens")
		refused[i].send(connectFrame(testVIN, 4, connectOptions{user: testVIN, password: "wrong"}))
	}
	begun := time.Now()
	for _, c := range refused {
		if code := c.connack(); code == 0 {
			t.Fatal("accepted")
		}
	}
	if took := time.Since(begun); took > time.Duration(n/cap(h.b.gate.places))*lingerTime/2 {
		t.Errorf("%d refusals took %v: they wait for one another's clients", n, took)
	}
}

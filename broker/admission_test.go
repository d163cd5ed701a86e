package broker

import (
	"fmt"
	"testing"

	"cellgate/broker/frame"
	"cellgate/test/mqtt"
)

// Clients that connect simultaneously cannot exceed MaxConnections.
func TestMaxConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	const most = 5
	h := newHarness(t, func(o *Options) { o.Limits.MaxConnections = most })
	clients := make([]*client, 8*most)
	for i := range clients {
		clients[i] = h.dial("cars")
		clients[i].Version = frame.Version5
	}
	for i, c := range clients {
		// With a session that outlives the connection, the CONNACK waits for the disk.
		o := mqtt.Connect{Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 256)}}
		c.Send(connectFrame(fmt.Sprintf("LTEST%012d", i), frame.Version5, o))
	}
	accepted := 0
	for _, c := range clients {
		switch code := c.Connack(); code {
		case 0:
			accepted++
		case frame.ReasonQuotaExceeded:
		default:
			t.Errorf("CONNACK %#x", code)
		}
	}
	if accepted != most {
		t.Errorf("%d connected, want %d", accepted, most)
	}
}

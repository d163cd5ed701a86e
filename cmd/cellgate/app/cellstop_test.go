package app

import (
	"fmt"
	"testing"

	"cellgate/test/harness"
	"cellgate/test/mqtt"

	"github.com/alicebob/miniredis/v2"
)

// TestStopWhileRedisIsSilent: a stop does not wait for a Redis that accepts connections and does not answer, however long
// redis.timeout is (a minute here).
func TestStopWhileRedisIsSilent(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	link := harness.NewLink(t, "redis", server.Addr())
	r := newRigAt(t, 1, "rules: []\n", server, link.Addr)
	r.opened()
	for i := range 20 {
		r.connect(0, fmt.Sprintf("LASTOP000000000%02d", i), mqtt.V5)
	}
	link.Afflict(harness.Toxic{Type: "timeout", Attributes: map[string]int64{"timeout": 0}})
	halt(t, r.gw[0])
}

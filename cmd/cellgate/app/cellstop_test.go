package app

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"cellgate/test/check"
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

// TestFailedStartWhileRedisIsSilent: nor does a start that fails.
func TestFailedStartWhileRedisIsSilent(t *testing.T) {
	t.Parallel()
	link := harness.NewLink(t, "redis", miniredis.RunT(t).Addr())
	link.Afflict(harness.Toxic{Type: "timeout", Attributes: map[string]int64{"timeout": 0}})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	defer func() { _ = taken.Close() }()
	file := place(t, "gw-1", "several", link.Addr)
	check.Replace(t, file, `{name: local, address: "127.0.0.1:0"}`, fmt.Sprintf(`{name: local, address: %q}`, taken.Addr()))
	if err := refusedStart(t, file); err == nil || !strings.Contains(err.Error(), "address already in use") || strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("%v", err)
	}
}

//go:build real

package real

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"cellgate/test/harness"
)

const useAnother = 0x9C

// redirect drains gateway a while every client is connected there as a vehicle and as a service, and then stops it.
// On MQTT 5 clients are told where to go; on 3.1.1 they find out by themselves. All go on at b.
func redirect(t *testing.T, c *cell) {
	vehicles, services := map[string]*running{}, map[string]*running{}
	ids := map[string]string{}
	each := func(t *testing.T, phase, column string, test func(*testing.T, *caller)) {
		t.Run(phase, func(t *testing.T) {
			for _, l := range libraries() {
				t.Run(l.String(), func(t *testing.T) {
					t.Parallel()
					t.Cleanup(func() { c.note(l, column, t.Failed()) })
					test(t, &caller{c, l})
				})
			}
		})
	}
	for _, l := range libraries() {
		k := &caller{c, l}
		j := k.vehicle(t)
		j.Stay, j.Second, j.Publish, j.Subscribe = true, c.b.MQTTS, up(j.ClientID, "telemetry", 1, 0, 1), []subscription{{"v1/" + j.ClientID + "/cmd/#", 1}}
		vehicles[l.String()], ids[l.String()] = l.start(t, j), j.ClientID
		w := k.watcher()
		w.Stay, w.Subscribe = true, []subscription{{"v1/" + j.ClientID + "/up/#", 1}}
		services[l.String()] = l.start(t, w)
	}
	_ = each
	_, _, _ = http.MethodPost, time.Second, fmt.Sprint
	_ = harness.Eventually
}

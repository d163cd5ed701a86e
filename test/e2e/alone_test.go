package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestServesAlone: while Kafka, Redis and the centre are unreachable from the start, the gateway serves vehicles and
// reports what is missing.
func TestServesAlone(t *testing.T) {
	t.Parallel()
	away := &harness.Kafka{Brokers: []string{harness.FreeAddr(t)}}
	g := harness.StartGateway(t, harness.Options{Kafka: away, Central: away})
	vin := scenario.NewVIN()
	v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
	for range 3 {
		if code := v.Send(t, "v1/"+vin+"/up/telemetry", `{"soc": 50}`); code != 0 {
			t.Errorf("PUBACK 0x%02x with everything away", code)
		}
	}
	check.Within(t, 20*time.Second, "readyz naming what is away", func() error {
		status, body, err := g.Get("/readyz", "")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		for _, name := range []string{"kafka", "redis", "central"} {
			if !strings.Contains(string(body), `"`+name+`"`) {
				return fmt.Errorf("%s is not named: %s", name, body)
			}
		}
		return nil
	})
}

//go:build real

package real

import (
	"testing"
	"time"

	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestKills: after a kill, presence is correct, commands from Kafka arrive once the vehicles are back, and forwarding
// to the centre continues once the gateway is.
func TestKills(t *testing.T) {
	t.Parallel()
	for _, version := range harness.KafkaVersions() {
		t.Run("Kafka "+version, func(t *testing.T) {
			kafka := harness.ApacheKafka(t, version, 1)
			redis, _ := harness.Redis(t)
			// One at a time: they are gateways of one cell that allows a single gateway.
			t.Run("commands", func(t *testing.T) { scenario.CommandsThroughAKill(t, kafka, redis, 2*time.Second) })
			t.Run("presence", func(t *testing.T) { scenario.PresenceThroughAKill(t, kafka, redis) })
			t.Run("sync", func(t *testing.T) { scenario.SyncThroughAKill(t, kafka, harness.EmbeddedKafka(t), redis) })
		})
	}
}

//go:build real

package real

import (
	"testing"
	"time"

	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestKills: after a kill, presence is the truth and commands from Kafka come as soon as the vehicles are back, and
// what is bound for the centre goes on as soon as the gateway is.
func TestKills(t *testing.T) {
	t.Parallel()
	for _, version := range harness.KafkaVersions() {
		t.Run("Kafka "+version, func(t *testing.T) {
			kafka := harness.ApacheKafka(t, version, 1)
			redis, _ := harness.Redis(t)
			scenario.CommandsThroughAKill(t, kafka, redis, 2*time.Second)
			scenario.PresenceThroughAKill(t, kafka, redis)
			scenario.SyncThroughAKill(t, kafka, harness.EmbeddedKafka(t), redis)
		})
	}
}

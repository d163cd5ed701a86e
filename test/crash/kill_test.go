package crash

import (
	"testing"
	"time"

	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestPresenceThroughAKill: what is told of vehicles is the truth after a kill.
func TestPresenceThroughAKill(t *testing.T) {
	t.Parallel()
	scenario.PresenceThroughAKill(t, harness.EmbeddedKafka(t), harness.EmbeddedRedis(t))
}

// TestCommandsThroughAKill: commands from Kafka come as soon as the vehicles are back.
func TestCommandsThroughAKill(t *testing.T) {
	t.Parallel()
	scenario.CommandsThroughAKill(t, harness.EmbeddedKafka(t), harness.EmbeddedRedis(t), 3*time.Second)
}

// TestSyncThroughAKill: what is bound for the centre goes on as soon as the gateway is back.
func TestSyncThroughAKill(t *testing.T) {
	t.Parallel()
	scenario.SyncThroughAKill(t, harness.EmbeddedKafka(t), harness.EmbeddedKafka(t), harness.EmbeddedRedis(t))
}

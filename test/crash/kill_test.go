package crash

import (
	"testing"
	"time"

	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestPresenceThroughAKill: reported presence is correct after a kill.
func TestPresenceThroughAKill(t *testing.T) {
	t.Parallel()
	scenario.PresenceThroughAKill(t, harness.EmbeddedKafka(t), harness.EmbeddedRedis(t))
}

// TestCommandsThroughAKill: commands from Kafka arrive as soon as the vehicles are back.
func TestCommandsThroughAKill(t *testing.T) {
	t.Parallel()
	scenario.CommandsThroughAKill(t, harness.EmbeddedKafka(t), harness.EmbeddedRedis(t), 3*time.Second)
}

// TestSyncThroughAKill: forwarding to the centre continues as soon as the gateway is back.
func TestSyncThroughAKill(t *testing.T) {
	t.Parallel()
	scenario.SyncThroughAKill(t, harness.EmbeddedKafka(t), harness.EmbeddedKafka(t), harness.EmbeddedRedis(t))
}

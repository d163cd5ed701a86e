// Package e2e runs the scenarios on the embedded Kafka and Redis, with the gateway as its own process.
package e2e

import (
	"testing"

	"cellgate/test/harness"
	"cellgate/test/scenario"
)

func TestScenarios(t *testing.T) {
	t.Parallel()
	cell, central := harness.EmbeddedKafka(t), harness.EmbeddedKafka(t)
	scenario.Run(t, scenario.Start(t, cell, central, harness.EmbeddedRedis(t)))
}

//go:build real

package real

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// refusalRules send to topics that are missing or accept only small messages.
const refusalRules = `
rules:
  - id: late
    from: ["v1/+/up/late"]
    to: [{kafka: {topic: late.topic}}]
  - id: never
    from: ["v1/+/up/never"]
    to: [{kafka: {topic: never.topic}}]
    on_error: {kafka: {topic: refused.messages}}
  - id: small
    from: ["v1/+/up/small"]
    to: [{kafka: {topic: small.topic}}]
    on_error: {kafka: {topic: refused.messages}}
`

// missingGrace is how long this test's gateway waits for a topic.
const missingGrace = 30 * time.Second

// refusals runs a gateway that may not create topics, against missing topics and one that accepts no message above
// 2,000 bytes. Every message has the configured outcome.
func refusals(t *testing.T, kafka *harness.Kafka) {
	kafka.CreateTopic("small.topic", map[string]string{"max.message.bytes": "2000"})
	kafka.CreateTopic("refused.messages", nil)
	rules := t.TempDir()
	check.OK(t, os.WriteFile(filepath.Join(rules, "refusals.rules.yaml"), []byte(refusalRules), 0o600))
	g := harness.StartGateway(t, harness.Options{
		Kafka: kafka, Redis: harness.EmbeddedRedis(t), Rules: rules, KeepTopics: true, Node: "gw-2",
		KafkaSettings: "missing_topic_grace: " + missingGrace.String(),
	})
	operator, vin := g.OperatorToken(), scenario.NewVIN()
	v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
	const count = 20
	send := func(class, filler string) {
		for seq := range count {
			if code := v.Send(t, "v1/"+vin+"/up/"+class, fmt.Sprintf(`{"seq": %d%s}`, seq, filler)); code != 0 {
				t.Fatalf("PUBACK 0x%02x for %s", code, class)
			}
		}
	}
	send("late", "")
	send("never", "")
	t.Run("topic missing, then created", func(t *testing.T) {
		check.Within(t, 20*time.Second, "all pending", func() error { return counts(g, operator, 0, 0, 2*count) })
		kafka.CreateTopic("late.topic", nil)
		kafka.Await("late.topic", 20*time.Second, inOrder(count, "late", ""))
	})
	t.Run("message too large", func(t *testing.T) {
		send("small", "")
		send("small", `, "filler": "`+noise(10_000)+`"`)
		send("small", "")
		kafka.Await("small.topic", 20*time.Second, harness.AtLeast(2*count))
		kafka.Await("refused.messages", 20*time.Second, inOrder(count, "small", "Message Size Too Large"))
	})
	t.Run("topic missing for good", func(t *testing.T) {
		kafka.Await("refused.messages", 2*missingGrace, inOrder(count, "never", "topic does not exist"))
	})
	check.Within(t, 10*time.Second, "the ledger to settle", func() error { return counts(g, operator, 3*count, 2*count, 0) })
}

// noise returns text that does not compress to a fifth of its size.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('A' + rand.IntN(26)) //nolint:gosec // any will do
	}
	return string(b)
}

// counts returns nil when the ledger of the Kafka sink has these terms.
func counts(g *harness.Gateway, operator string, delivered, deadLettered, pending int64) error {
	lines, err := g.Ledger(operator)
	if err != nil {
		return err
	}
	s := lines["kafka"]
	if s.Delivered != delivered || s.DeadLettered != deadLettered || s.Pending != pending || !s.Balanced || len(s.Dropped) != 0 {
		return fmt.Errorf("%+v; want %d delivered, %d dead-lettered, %d pending", s, delivered, deadLettered, pending)
	}
	return nil
}

// inOrder is an Await condition: the rule has n records, in order, each with the reason in its error header.
func inOrder(n int, rule, reason string) func([]harness.Record) error {
	return func(all []harness.Record) error {
		next := 0
		for _, r := range all {
			if r.Headers["rule"] != rule {
				continue
			}
			if !strings.HasPrefix(string(r.Value), fmt.Sprintf(`{"seq": %d`, next)) {
				return fmt.Errorf("record %d of %s is %.20s", next, rule, r.Value)
			}
			if !strings.Contains(r.Headers["error"], reason) {
				return fmt.Errorf("error of %s is %q, want %q in it", rule, r.Headers["error"], reason)
			}
			next++
		}
		if next != n {
			return fmt.Errorf("%d records of %s, want %d", next, rule, n)
		}
		return nil
	}
}

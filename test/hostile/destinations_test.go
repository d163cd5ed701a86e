package hostile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// classesWithoutTopics is the number of listed classes without a topic.
const classesWithoutTopics = 100

// destinationRules send honest telemetry to one topic and the attackers' messages to others. Telemetry also goes to a
// spare topic, unless acknowledgements would wait for it.
func destinationRules(ack string) string {
	spare := "telemetry"
	if ack == "kafka" {
		spare = "spare"
	}
	var b strings.Builder
	b.WriteString("lists: {classes: [telemetry")
	for i := range classesWithoutTopics {
		fmt.Fprintf(&b, ", c%d", i)
	}
	b.WriteString(`]}
rules:
  - {id: every, from: ["v1/+/up/telemetry"], to: [{kafka: {topic: vehicle.telemetry}}]}
  - {id: by-class, from: ["v1/+/up/#"], to: [{kafka: {topic: "byclass.${class}"}}]}
  - {id: reads, from: ["v1/+/up/telemetry", "v1/+/up/bad"], when: payload.soc > 200, to: [{kafka: {topic: vehicle.telemetry}}]}
`)
	fmt.Fprintf(&b, "  - {id: spare, from: [v1/+/up/%s], to: [{kafka: {topic: vehicle.spare}}]}\n", spare)
	return b.String()
}

// attackDestinations attacks two gateways with these rules, one with uplink.ack journal and one with kafka. Kafka has
// only the given topics and creates no others.
func attackDestinations(t *testing.T, topics []string, s attackPlan) {
	t.Helper()
	for _, ack := range []string{"journal", "kafka"} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			attackUntilDone(t, ofTopics(t, ack, topics, s))
		})
	}
}

func ofTopics(t *testing.T, ack string, topics []string, s attackPlan) attackPlan {
	s.options = harness.Options{
		Kafka: harness.FixedKafka(t, topics...), KeepTopics: true,
		Extra: "log: {level: warn}\nuplink: {ack: " + ack + "}\n" + attackers().limits,
	}
	s.prepare = func(t *testing.T, g *harness.Gateway, _ *harness.Kafka) {
		only := filepath.Join(g.Dir, "rules")
		check.OK(t, os.RemoveAll(only))
		check.OK(t, os.Mkdir(only, 0o750))
		check.OK(t, os.WriteFile(filepath.Join(only, "a.rules.yaml"), []byte(destinationRules(ack)), 0o600))
	}
	return s
}

var honestTopics = []string{"vehicle.telemetry", "vehicle.spare", "byclass.telemetry", "vehicle.presence", "vehicle.commands", "vehicle.command-results"}

// attackers publish at the permitted 200 messages per second. Short attacks may be faster, so that they exceed a sink's
// room.
func attackers() (a struct {
	limits string
	every  time.Duration
},
) {
	if a.every = 5 * time.Millisecond; !full() {
		a.limits, a.every = "limits: {messages_per_second: 0}\n", 400*time.Microsecond
	}
	return a
}

// publish has two vehicles publish until ctx ends: one with QoS 1, and one with QoS 0, which no window limits.
func publish(ctx context.Context, c *cell, vin string, message func(n int) (class, payload string)) {
	go publishAt(ctx, c, vin+"0", 0, message)
	publishAt(ctx, c, vin, 1, message)
}

// publishAt reconnects after every hundred messages: a window is 64.
func publishAt(ctx context.Context, c *cell, vin string, qos byte, message func(n int) (class, payload string)) {
	n := 0
	for ctx.Err() == nil {
		s, err := mqtt.Open(c.Lab, login(vin, ""), nil)
		if err != nil {
			continue
		}
		go func() {
			for {
				if _, _, err := s.ReadFrame(); err != nil {
					return
				}
			}
		}()
		tick := time.NewTicker(attackers().every)
		for left := 100; err == nil && ctx.Err() == nil && left > 0; left, n = left-1, n+1 {
			<-tick.C
			class, payload := message(n)
			err = s.Send(publishFrame(qos, uint16(1+n%60_000), "v1/"+vin+"/up/"+class, payload)) //nolint:gosec // small
		}
		tick.Stop()
		s.Drop()
	}
}

// pendingAfter checks that the Kafka sink's ledger balances while destinations are parked, that /readyz names them, and
// that nothing is pending after the topics are created.
func pendingAfter(named string, missing ...string) func(t *testing.T, c *cell) {
	return func(t *testing.T, c *cell) {
		if l, err := c.Ledger(c.operator); err != nil || !l["kafka"].Balanced {
			t.Errorf("ledger %+v, %v", l, err)
		}
		check.Within(t, check.Patience, "/readyz names "+named, func() error {
			_, body, err := c.Get("/readyz", "")
			if err == nil && !strings.Contains(string(body), named) {
				err = errors.New(string(body))
			}
			return err
		})
		c.kafka.MakeTopics(2, missing...)
		check.Within(t, check.Patience, "everything settled", func() error {
			if err := c.Settled(c.operator); err != nil {
				_, body, _ := c.Get("/v1/status", c.operator)
				return fmt.Errorf("%w; %s", err, body)
			}
			return nil
		})
		l, err := c.Ledger(c.operator)
		if err != nil || len(l["kafka"].Dropped) > 0 {
			t.Errorf("ledger %+v, %v", l, err)
		}
		t.Logf("ledger %+v", l["kafka"])
	}
}

// TestClassesWithoutTopics publishes classes whose topic is never created, some of them listed.
func TestClassesWithoutTopics(t *testing.T) {
	t.Parallel()
	missing := make([]string, classesWithoutTopics)
	for i := range missing {
		missing[i] = fmt.Sprintf("byclass.c%d", i)
	}
	attackDestinations(t, append(honestTopics, "vehicle.rule-errors"), attackPlan{
		attack: func(ctx context.Context, _ *testing.T, c *cell) {
			go publish(ctx, c, "EVILQ", func(n int) (string, string) { return fmt.Sprintf("q%d", n), `{"soc":1}` })
			publish(ctx, c, "EVILC", func(n int) (string, string) { return fmt.Sprintf("c%d", n%classesWithoutTopics), `{"soc":1}` })
		},
		afterwards: pendingAfter("byclass.c", missing...),
	})
}

// TestMissingErrorTopic publishes invalid JSON while the error topic is missing.
func TestMissingErrorTopic(t *testing.T) {
	t.Parallel()
	attackDestinations(t, honestTopics, attackPlan{
		attack: func(ctx context.Context, _ *testing.T, c *cell) {
			publish(ctx, c, "EVILB", func(int) (string, string) { return "bad", "no JSON" })
		},
		afterwards: pendingAfter("vehicle.rule-errors", "vehicle.rule-errors"),
	})
}

// TestTopicRecreated repeatedly deletes a topic and recreates it with another number of partitions. Other topics are not
// affected.
func TestTopicRecreated(t *testing.T) {
	t.Parallel()
	attackDestinations(t, append(honestTopics, "vehicle.rule-errors"), attackPlan{
		attack: func(ctx context.Context, _ *testing.T, c *cell) {
			publishing, stop := context.WithCancel(context.WithoutCancel(ctx))
			defer stop()
			go publish(publishing, c, "EVILS", func(int) (string, string) { return "spare", `{"soc":1}` })
			for n := int32(0); ctx.Err() == nil; n++ {
				c.kafka.DeleteTopics("vehicle.spare")
				pause(ctx, time.Second)
				c.kafka.MakeTopics(1+(3*n)%4, "vehicle.spare")
				pause(ctx, 2*time.Second)
			}
			c.kafka.DeleteTopics("vehicle.spare")
			time.Sleep(3 * time.Second)
		},
		afterwards: pendingAfter("vehicle.spare", "vehicle.spare"),
	})
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

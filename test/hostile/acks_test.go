package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// TestOnlyTheParkedMessageWaitsForItsAcknowledgement publishes to a missing topic under uplink.ack: kafka. PUBACK and
// PUBREC wait until Kafka has the message, across a reconnect and a kill. Other vehicles' acknowledgements do not wait.
func TestOnlyTheParkedMessageWaitsForItsAcknowledgement(t *testing.T) {
	t.Parallel()
	o := harness.Options{
		Kafka: harness.FixedKafka(t, honestTopics...), Redis: harness.EmbeddedRedis(t), KeepTopics: true, NoRules: true,
		Extra: "uplink: {ack: kafka}\nlog: {level: warn}\n",
	}
	g := harness.PrepareGateway(t, o)
	check.OK(t, os.WriteFile(filepath.Join(g.Dir, "rules", "none.rules.yaml"), []byte(`
rules:
  - {id: every, from: ["v1/+/up/telemetry"], to: [{kafka: {topic: vehicle.telemetry}}]}
  - {id: away, from: ["v1/+/up/away"], to: [{kafka: {topic: vehicle.telemetry}}, {kafka: {topic: away}}]}
`), 0o600))
	g.Start()
	c := &cell{Gateway: g, kafka: o.Kafka, operator: g.OperatorToken()}
	once, twice := c.dialKept(t, "ONCE"), c.dialKept(t, "TWICE")
	once.publishes(1, 1, "away")
	twice.publishes(2, 2, "away")
	c.parked(t, 2)
	other := c.dialKept(t, "OTHER")
	other.isAcknowledged(50)
	once.waits()
	twice.waits()

	once.Drop()
	twice.Drop()
	once, twice = c.dialKept(t, "ONCE"), c.dialKept(t, "TWICE")
	once.publishes(1, 1, "away") // a separate record
	twice.publishes(2, 2, "away")
	c.parked(t, 3)
	other.isAcknowledged(50)
	once.waits()
	twice.waits()

	g.Kill()
	g.Start()
	twice, other = c.dialKept(t, "TWICE"), c.dialKept(t, "OTHER")
	twice.publishes(2, 2, "away")
	other.isAcknowledged(50)
	twice.waits()

	o.Kafka.MakeTopics(2, "away")
	twice.ExpectFrame(0x50, 0, 2)
	ofTwice := func(r harness.Record) bool { return r.Key == "TWICE" }
	if !slices.ContainsFunc(o.Kafka.Read("away"), ofTwice) {
		t.Error("acknowledged with the message not in Kafka")
	}
	// Messages of ONCE may be in another partition and arrive independently.
	check.Within(t, time.Minute, "the other messages in Kafka", func() error {
		if n := len(o.Kafka.Read("away")); n != 3 {
			return fmt.Errorf("%d of 3 messages", n)
		}
		return nil
	})
}

// kept is a vehicle whose session outlives its connection.
type kept struct {
	*mqtt.T
	vin  string
	next uint16
}

func (c *cell) dialKept(t *testing.T, vin string) *kept {
	t.Helper()
	o := login(vin, "")
	o.Keep = true
	var client *mqtt.Client
	check.Within(t, time.Minute, "a connection of "+vin, func() (err error) {
		client, err = mqtt.Open(c.Lab, o, nil)
		return err
	})
	t.Cleanup(client.Drop)
	client.Patience = time.Minute
	return &kept{T: &mqtt.T{Client: client, TB: t}, vin: vin, next: 100}
}

func (k *kept) publishes(qos byte, id uint16, class string) {
	k.Send(publishFrame(qos, id, "v1/"+k.vin+"/up/"+class, `{"soc":1}`))
}

// isAcknowledged publishes n telemetry messages one after the other and awaits each acknowledgement.
func (k *kept) isAcknowledged(n int) {
	for range n {
		k.next++
		k.publishes(1, k.next, "telemetry")
		k.ExpectFrame(0x40, mqtt.Uint16(k.next)...)
	}
}

// waits checks that no acknowledgement has arrived: the next packet is the reply to a PINGREQ.
func (k *kept) waits() {
	k.Send(mqtt.Pingreq())
	k.ExpectFrame(0xD0)
}

// parked waits until n messages are parked.
func (c *cell) parked(t *testing.T, n int) {
	t.Helper()
	want := fmt.Sprintf("cellgate_parked_messages{cell=%q,sink=%q} %d\n", "cell-test-01", "kafka", n)
	check.Within(t, time.Minute, "parked messages", func() error {
		_, body, err := c.Get("/metrics", "")
		if err == nil && !strings.Contains(string(body), want) {
			err = fmt.Errorf("no %s", want)
		}
		return err
	})
}

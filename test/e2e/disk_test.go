package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// The rungs of the ladder as reported by cellgate_journal_pressure{what="rung"}.
const (
	rungAlarm = 1 + iota
	rungDrop
	rungRefuse
	rungHold
)

// ladderTest is a gateway without Kafka, with a vehicle of each protocol version.
type ladderTest struct {
	*harness.Gateway
	t        *testing.T
	operator string
	v5       *scenario.V5
	v3       mqtt3.Client
	v3Ended  <-chan struct{}
	vins     [2]string // of v5 and v3
	filler   string
	fill     *scenario.V5
	acked    int
}

// TestDiskLadder climbs the ladder rung by rung while Kafka is away; when Kafka is back, the gateway returns to normal.
func TestDiskLadder(t *testing.T) {
	t.Parallel()
	port := harness.FreePort(t)
	g := harness.StartGateway(t, harness.Options{
		Kafka: &harness.Kafka{Brokers: []string{fmt.Sprintf("127.0.0.1:%d", port)}}, Redis: harness.EmbeddedRedis(t),
		Extra: "uplink: {journal: {segment_bytes: 1MiB, max_bytes: 24MiB, alarm_percent: 30, drop_percent: 45, refuse_percent: 60, hold_percent: 80}}\n" +
			"limits: {messages_per_second: 0, bytes_per_second: 0}\n",
	})
	l := &ladderTest{Gateway: g, t: t, operator: g.OperatorToken(), vins: [2]string{scenario.NewVIN(), scenario.NewVIN()}, filler: scenario.NewVIN()}
	l.connect()
	l.qos0(0, "with room enough")
	l.climb(rungAlarm)
	l.ready(http.StatusOK, "room getting short")
	l.qos0(0, "at the alarm")
	l.climb(rungDrop)
	l.ready(http.StatusOK, "QoS 0 is dropped")
	l.qos0(2, "at the drop mark")
	l.admitted(true)
	l.shown()
	l.climb(rungRefuse)
	l.ready(http.StatusOK, "new connections are refused")
	l.qos0(2, "at the refuse mark")
	l.admitted(false)
	l.hold(port)
}

func (l *ladderTest) connect() {
	l.v5 = scenario.MustV5(l.t, l.Gateway, l.vins[0], l.VehicleToken(l.vins[0]))
	l.fill = scenario.MustV5(l.t, l.Gateway, l.filler, l.VehicleToken(l.filler))
	var err error
	if l.v3, l.v3Ended, err = scenario.DialV3(l.t, l.Gateway, l.vins[1], l.VehicleToken(l.vins[1])); err != nil {
		l.t.Fatal(err)
	}
}

func telemetry(vin string) string { return "v1/" + vin + "/up/telemetry" }

// payload is telemetry of size bytes.
func payload(size int) []byte {
	return []byte(`{"soc": 50, "pad": "` + strings.Repeat("x", size) + `"}`)
}

// climb publishes until the ladder is at a rung. It waits until the ladder has noticed each step, which is small compared with
// the distance of two marks.
func (l *ladderTest) climb(rung float64) {
	l.t.Helper()
	for range 100 {
		before := l.metric(`cellgate_journal_pressure\{.*what="used"`)
		for range 32 {
			if code := l.fill.Send(l.t, telemetry(l.filler), string(payload(32<<10))); code != 0 {
				l.t.Fatalf("PUBACK 0x%02x below the last rung", code)
			}
			l.acked++
		}
		check.Eventually(l.t, "the ladder has noticed a step", func() bool { return l.metric(`cellgate_journal_pressure\{.*what="used"`) > before })
		switch at := l.metric(`cellgate_journal_pressure\{.*what="rung"`); {
		case at == rung:
			return
		case at > rung:
			l.t.Fatalf("rung %v on the way to %v", at, rung)
		}
	}
	l.t.Fatalf("never came to rung %v", rung)
}

func (l *ladderTest) metric(pattern string) float64 {
	l.t.Helper()
	_, body, err := l.Get("/metrics", "")
	check.OK(l.t, err)
	found := regexp.MustCompile(`(?m)^` + pattern + `[^}]*\} (\S+)$`).FindSubmatch(body)
	if found == nil {
		return 0
	}
	v, err := strconv.ParseFloat(string(found[1]), 64)
	check.OK(l.t, err)
	return v
}

func (l *ladderTest) dropped() float64 {
	return l.metric(`cellgate_rejected_total\{.*reason="journal_full_qos0"`)
}

// ready checks status and text of /readyz.
func (l *ladderTest) ready(want int, text string) {
	l.t.Helper()
	status, body, err := l.Get("/readyz", "")
	if err != nil || status != want || !strings.Contains(string(body), text) {
		l.t.Errorf("readyz %d %s %v, want %d and %q", status, body, err, want, text)
	}
}

// qos0 sends a message of QoS 0 and then one of QoS 1 in each protocol version. Those of QoS 1 are acknowledged; that
// many of the others are dropped and counted.
func (l *ladderTest) qos0(dropped float64, when string) {
	l.t.Helper()
	before := l.dropped()
	_, err := l.v5.Publish(l.t.Context(), &paho.Publish{Topic: telemetry(l.vins[0]), Payload: payload(1)})
	check.OK(l.t, err)
	l.v3.Publish(telemetry(l.vins[1]), 0, false, payload(1))
	if code := l.v5.Send(l.t, telemetry(l.vins[0]), string(payload(1))); code != 0 {
		l.t.Errorf("%s: PUBACK 0x%02x", when, code)
	}
	if token := l.v3.Publish(telemetry(l.vins[1]), 1, false, payload(1)); !token.WaitTimeout(check.Patience) || token.Error() != nil {
		l.t.Fatalf("%s: 3.1.1 is not acknowledged: %v", when, token.Error())
	}
	l.acked += 2
	if got := l.dropped() - before; got != dropped {
		l.t.Errorf("%s: %v messages of QoS 0 dropped, want %v", when, got, dropped)
	}
}

// admitted connects a client of each version.
func (l *ladderTest) admitted(want bool) {
	l.t.Helper()
	vin := scenario.NewVIN()
	token := l.VehicleToken(vin)
	v5, err := scenario.DialV5(l.t, l.Gateway, vin, token)
	c, _, err3 := scenario.DialV3(l.t, l.Gateway, vin, token)
	if want {
		if err != nil || err3 != nil {
			l.t.Errorf("not admitted: %v, 3.1.1: %v", err, err3)
			return
		}
		c.Disconnect(0)
		return
	}
	if err == nil || v5 == nil || v5.Connack == nil || v5.Connack.ReasonCode != 0x97 {
		l.t.Errorf("MQTT 5 is not refused with 0x97: %v", err)
	}
	if !errors.Is(err3, packets.ErrorRefusedServerUnavailable) {
		l.t.Errorf("3.1.1 is not refused with 3: %v", err3)
	}
}

// shown compares `cellgate status` with the dropped messages.
func (l *ladderTest) shown() {
	l.t.Helper()
	page := l.Cellgate("status", "--config", l.Config)
	want := fmt.Sprintf("%.0f messages of QoS 0 dropped since the start because there was no room", l.dropped())
	if !strings.Contains(page, want) || !strings.Contains(page, "QoS 0 is dropped") {
		l.t.Errorf("status does not say %q:\n%s", want, page)
	}
}

// hold fills the journal, checks that nothing is acknowledged and commands are still accepted, and starts Kafka.
func (l *ladderTest) hold(port int) {
	l.t.Helper()
	stop := l.fillUp()
	withheld := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		_, err := l.v5.Publish(ctx, &paho.Publish{QoS: 1, Topic: telemetry(l.vins[0]), Payload: payload(1)})
		withheld <- err
	}()
	token := l.v3.Publish(telemetry(l.vins[1]), 1, false, payload(1))
	if token.WaitTimeout(2 * time.Second) {
		l.t.Errorf("3.1.1 was acknowledged by a full journal: %v", token.Error())
	}
	select {
	case err := <-withheld:
		l.t.Errorf("MQTT 5 was answered by a full journal: %v", err)
	default:
	}
	l.ready(http.StatusServiceUnavailable, "unable to journal")
	l.admitted(false)
	status, body, err := l.Do(http.MethodPost, "/v1/vehicles/"+l.vins[0]+"/commands", l.operator,
		map[string]any{"name": "unlock", "payload": map[string]any{"door": 1}})
	if err != nil || status != http.StatusAccepted {
		l.t.Errorf("a command with the journal full: %d %s %v", status, body, err)
	}

	c := fakekafka.Cluster(l.t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(4), kfake.Ports(port))
	back := time.Now()
	if !token.WaitTimeout(time.Minute) || token.Error() != nil {
		l.t.Fatalf("3.1.1: not acknowledged within a minute of Kafka's return: %v", token.Error())
	}
	if err := <-withheld; err != nil {
		l.t.Fatalf("MQTT 5: %v", err)
	}
	l.acked += 2 + stop()
	check.Within(l.t, time.Minute-time.Since(back), "the foot of the ladder", func() error {
		if at := l.metric(`cellgate_journal_pressure\{.*what="rung"`); at != 0 {
			return fmt.Errorf("rung %v", at)
		}
		return nil
	})
	l.t.Logf("recovered %v after Kafka's return", time.Since(back).Round(time.Millisecond))
	l.qos0(0, "with room again")
	l.admitted(true)
	select {
	case <-l.v3Ended:
		l.t.Error("the 3.1.1 connection was lost")
	case d := <-l.v5.Closed:
		l.t.Errorf("the MQTT 5 connection was lost: %+v", d)
	default:
	}
	check.Within(l.t, time.Minute, "everything delivered", func() error { return l.Settled(l.operator) })
	kafka := &harness.Kafka{Brokers: c.ListenAddrs()}
	records, err := harness.ReadTopic(l.t.Context(), kafka.Brokers, "vehicle.telemetry")
	check.OK(l.t, err)
	ids := map[string]bool{}
	for _, r := range records {
		ids[r.Headers["msg-id"]] = true
	}
	// In addition to the acknowledged messages there are the four of QoS 0 that were not dropped before and at the
	// alarm, and the two at the end.
	if want := l.acked + 6; len(ids) != want {
		l.t.Errorf("%d messages in Kafka, want %d", len(ids), want)
	}
}

// fillUp publishes from the filler until the gateway withholds acknowledgements. stop waits for messages under way and
// returns how many were acknowledged.
func (l *ladderTest) fillUp() (stop func() int) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l.t.Cleanup(cancel)
	done := make(chan int, 1)
	halt := make(chan struct{})
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-halt:
				return
			default:
			}
			if _, err := l.fill.Publish(ctx, &paho.Publish{QoS: 1, Topic: telemetry(l.filler), Payload: payload(32 << 10)}); err != nil {
				return
			}
			n++
		}
	}()
	check.Within(l.t, time.Minute, "the last rung", func() error {
		if at := l.metric(`cellgate_journal_pressure\{.*what="rung"`); at != rungHold {
			return fmt.Errorf("rung %v", at)
		}
		return nil
	})
	close(halt)
	return func() int { return <-done }
}

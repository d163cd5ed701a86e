package sink_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

const twoTopics = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to: [{kafka: {topic: t}}]
  - id: third
    from: ["v1/+/up/telemetry"]
    when: payload.h == 0
    to: [{kafka: {topic: away}}]
  - id: broken
    from: ["v1/+/up/bad"]
    when: payload.x > 3
    to: [{kafka: {topic: t}}]
`

// count returns the number of messages of a topic.
func count(all []sinktest.Message, topic string) (n int) {
	for _, m := range all {
		if m.Topic == topic {
			n++
		}
	}
	return n
}

// A topic that takes nothing occupies no place that another needs: everything else is delivered, however many messages
// wait for it; the ledger counts them as pending; and they come in order once it takes messages again.
func TestStalledTopicDelaysNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages = 64 })
	r.Apply(twoTopics)
	r.kafka.Shut("away", true)
	r.Publish(0, 3000)
	r.Await(func() bool { r.Balanced(); return count(r.kafka.Settled(), "t") == 3000 })
	r.Await(func() bool { return len(r.Dispatcher.Parked()) == 1 && r.Dispatcher.Parked()[0].Messages == 1000 })
	if l := r.Ledger("kafka"); l.Pending != 1000 || l.Delivered != 2000 {
		t.Fatalf("ledger %+v", l)
	}
	last := r.Journal.Last()
	r.Await(func() bool { return r.Dispatcher.Lag()[0].Cursor == last })
	r.Await(func() bool { return r.Journal.Stat().Needed["rules"] > last })
	if p := r.Dispatcher.Parked()[0]; p.Destination != "away" || p.Sink != "kafka" || p.Reason == "" || p.Bytes == 0 || p.Oldest.IsZero() {
		t.Errorf("%+v", p)
	}
	r.kafka.Shut("away", false)
	r.Settled()
	r.Await(func() bool { return len(r.Dispatcher.Parked()) == 0 })
	r.Publish(3000, 300)
	r.Settled()
	if l := r.Ledger("kafka"); l.Delivered != 3300 {
		t.Fatalf("ledger %+v", l)
	}
	if n := count(r.kafka.Settled(), "away"); n != 1100 {
		t.Fatalf("%d messages in the topic that was away", n)
	}
	sinktest.InOrder(t, r.kafka.Taken())
	r.Stop()
}

// An error topic that takes nothing is parked like any other destination: for evaluation errors, and for messages
// refused by another sink.
func TestStalledErrorTopicDelaysNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[0].Limits.Messages, o.Sinks[1].Limits.Messages = 64, 64
	})
	r.kafka.Shut(rulestest.ErrorTopic, true)
	r.redis.Refuse(func(m sinktest.Message) bool { return len(m.Value)%2 == 0 })
	for range 300 {
		r.Append(message.Record{
			Kind: message.KindPublish, Client: "s", Topic: "v1/" + sinktest.VIN(1) + "/up/bad", Payload: []byte(`{"x":"text"}`),
		})
	}
	r.Publish(0, 3000)
	r.Await(func() bool { r.Balanced(); return count(r.kafka.Settled(), "t") == 3000 })
	r.Await(func() bool { return r.Ledger("redis").Delivered+r.Ledger("redis").Pending == 1000 })
	refused := r.Ledger("redis").Pending
	if l := r.Ledger("kafka"); l.Pending != 300 || refused == 0 {
		t.Fatalf("kafka %+v, redis %+v", l, r.Ledger("redis"))
	}
	r.Kill() // waiting messages are on disk
	r.kafka.Forget()
	r.Open()
	r.Balanced()
	r.kafka.Shut(rulestest.ErrorTopic, false)
	r.Settled()
	if k, re := r.Ledger("kafka"), r.Ledger("redis"); k.DeadLettered != 300 || re.DeadLettered != refused {
		t.Fatalf("kafka %+v, redis %+v", k, re)
	}
	r.Stop()
}

// Messages that a destination permanently refuses after they waited are counted and logged, like those refused at once.
func TestLateRefusalIsReported(t *testing.T) {
	t.Parallel()
	reg, log := prometheus.NewRegistry(), &check.Log{}
	r := newRig(t, func(o *sink.Options) {
		o.Metrics, o.Log = sink.NewMetrics(reg), slog.New(slog.NewTextHandler(log, nil))
	})
	r.kafka.Shut("t", true)
	r.Publish(0, 100)
	r.Await(func() bool { p := r.Dispatcher.Parked(); return len(p) == 1 && p[0].Messages == 100 })
	r.kafka.Refuse(func(m sinktest.Message) bool { return m.Topic == "t" })
	r.kafka.Shut("t", false)
	r.Await(func() bool { return r.Ledger("kafka").DeadLettered == 100 })
	r.Stop()
	if n := strings.Count(log.String(), "they go to the error topic"); n < 1 || n > 2 { // one within a minute, and one at the stop
		t.Errorf("%d lines:\n%s", n, log)
	}
	if refused := check.Series(t, reg)["sink_refused_total{sink=kafka}"]; refused != 100 {
		t.Errorf("%v refused", refused)
	}
}

// When no more can be parked, messages go to the error topic; if that is away too they are dropped and counted. Neither
// holds up anything else.
func TestWhatCannotBeParkedAnyMore(t *testing.T) {
	t.Parallel()
	for name, away := range map[string][]string{"error topic takes it": {"away"}, "error topic away too": {"away", rulestest.ErrorTopic}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *sink.Options) {
				o.Sinks[0].Limits.Messages = 64
				o.Parked = sink.ParkedLimits{Bytes: 256 << 10, DestinationBytes: 64 << 10}
			})
			r.Apply(twoTopics)
			for _, topic := range away {
				r.kafka.Shut(topic, true)
			}
			r.Publish(0, 6000)
			r.Await(func() bool { r.Balanced(); return count(r.kafka.Settled(), "t") == 6000 })
			r.Await(func() bool {
				l := r.Ledger("kafka")
				return l.DeadLettered+l.Dropped[sink.ParkedFull]+l.Pending == 2000
			})
			l := r.Ledger("kafka")
			if full := len(away) == 2; full != (l.Dropped[sink.ParkedFull] > 0) || full == (l.DeadLettered > 0) || l.Pending == 0 {
				t.Fatalf("ledger %+v", l)
			}
			for _, p := range r.Dispatcher.Parked() {
				if p.Bytes > 65<<10 {
					t.Errorf("%d bytes for %s, the bound is 64 KiB", p.Bytes, p.Destination)
				}
			}
			for _, topic := range away {
				r.kafka.Shut(topic, false)
			}
			r.Settled()
			r.Stop()
		})
	}
}

// While nothing of a sink is taken, the sink counts as unavailable, not its destinations: nothing is dropped.
func TestAnOutageIsNotADestination(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[0].Limits.Messages = 64
		o.Parked = sink.ParkedLimits{Bytes: 64 << 10, DestinationBytes: 16 << 10}
	})
	topics := []string{"t", "low", rulestest.ErrorTopic}
	for _, topic := range topics {
		r.kafka.Shut(topic, true)
	}
	r.Publish(0, 3000)
	r.Await(func() bool { return r.Ledger("kafka").Pending == 3000 })
	for _, topic := range topics {
		r.kafka.Shut(topic, false)
	}
	r.Settled()
	complete(t, r, 3000)
	r.Stop()
}

// The number of destinations is bounded. A quarter is reserved for error topics.
func TestDestinationsAreBounded(t *testing.T) {
	t.Parallel()
	const topics = 20
	text := "lists: {classes: ["
	for i := range topics {
		text += fmt.Sprintf("c%d, ", i)
	}
	text += "]}\nrules:\n  - {id: r, from: ['v1/+/up/#'], to: [{kafka: {topic: 'by.${class}'}}]}\n" +
		"  - {id: t, from: ['v1/+/up/telemetry'], to: [{kafka: {topic: t}}]}\n"
	r := newRig(t, func(o *sink.Options) { o.Parked.Destinations = 8 })
	r.Apply(text)
	for i := range topics {
		r.kafka.Shut(fmt.Sprintf("by.c%d", i), true)
	}
	r.kafka.Shut(rulestest.ErrorTopic, true)
	for i := range 40 * topics {
		r.Append(message.Record{Kind: message.KindPublish, Client: "s", Topic: fmt.Sprintf("v1/%s/up/c%d", sinktest.VIN(1), i%topics), Payload: []byte(`{}`)})
		if i%10 == 0 {
			r.Publish(i/10, 1)
		}
	}
	sent := 80
	r.Await(func() bool {
		r.Publish(sent, 1) // while nothing else is delivered, messages that cannot be parked wait
		sent++
		logs, waiting := 0, 0
		for _, p := range r.Dispatcher.Parked() {
			if p.Bytes > 0 {
				logs++
			} else {
				waiting++
			}
		}
		if logs > 7 {
			t.Fatalf("%d destinations are parked", logs)
		}
		return logs > 5 && waiting == 0 && r.Dispatcher.Position() == r.Journal.Last() && count(r.kafka.Settled(), "t") == sent
	})
	r.Balanced()
	for i := range topics {
		r.kafka.Shut(fmt.Sprintf("by.c%d", i), false)
	}
	r.kafka.Shut(rulestest.ErrorTopic, false)
	r.Settled()
	if l := r.Ledger("kafka"); l.Delivered == 0 || l.DeadLettered == 0 || l.Delivered+l.DeadLettered != uint64(40*topics+sent) { //nolint:gosec // small
		t.Fatalf("ledger %+v", l)
	}
	r.Await(func() bool { return len(r.Dispatcher.Parked()) == 0 })
	r.Await(func() bool {
		dirs, _ := filepath.Glob(filepath.Join(r.Dir(), "decisions", "parked", "*"))
		return len(dirs) == 0
	})
	r.Stop()
}

// A record with several messages is settled by the last of them, also over crashes.
func TestLastMessageSettlesItsRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Apply(`
rules:
  - {id: a, from: ['v1/+/up/telemetry'], to: [{kafka: {topic: a}}]}
  - {id: b, from: ['v1/+/up/telemetry'], to: [{kafka: {topic: b}}]}
  - {id: c, from: ['v1/+/up/telemetry'], when: payload.h < 2, to: [{kafka: {topic: c}}]}
`)
	r.kafka.Refuse(func(m sinktest.Message) bool { return m.Topic == "c" })
	r.kafka.Shut("a", true)
	r.kafka.Shut("b", true)
	r.Publish(0, 300)
	r.Await(func() bool { return r.Dispatcher.Position() == r.Journal.Last() && r.Ledger("kafka").Pending == 300 })
	restart := func() {
		r.Await(func() bool { return r.Journal.Stat().Needed["rules"] > r.Journal.Last() })
		check.OK(t, r.Dispatcher.Checkpoint())
		r.Kill()
		r.kafka.Forget()
		r.Open()
		r.Balanced()
	}
	restart()
	if l := r.Ledger("kafka"); l.Pending != 300 {
		t.Fatalf("ledger %+v", l)
	}
	r.kafka.Shut("a", false)
	r.Await(func() bool { return len(r.Dispatcher.Parked()) == 1 })
	restart()
	r.kafka.Shut("b", false)
	r.Settled()
	if l := r.Ledger("kafka"); l.Delivered != 100 || l.DeadLettered != 200 {
		t.Fatalf("ledger %+v", l)
	}
	restart()
	if l := r.Ledger("kafka"); l.Delivered != 100 || l.DeadLettered != 200 {
		t.Fatalf("ledger after a restart %+v", l)
	}
	r.Stop()
}

// TestCrashesLoseNothingThatIsParked kills the dispatcher at random moments while topics come and go.
func TestCrashesLoseNothingThatIsParked(t *testing.T) {
	t.Parallel()
	eachSeed(t, 9, crashesParked)
}

func crashesParked(t *testing.T, rnd *rand.Rand, rounds int) {
	r := newRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages = 8 << rnd.IntN(6) })
	sent := r.crash(t, rnd, rounds, func() {
		r.kafka.Hold(rnd.IntN(3) == 0)
		r.kafka.Shut([]string{"t", "low"}[rnd.IntN(2)], rnd.IntN(2) == 0)
		r.kafka.Settle(0, rnd.IntN(50)) // in order, as a partition does
	})
	r.kafka.Shut("t", false)
	r.kafka.Shut("low", false)
	r.kafka.Hold(false)
	r.Settled()
	complete(t, r, sent)
	r.Stop()
}

// A missing log of a parked destination prevents the start, like a missing decision log. A repair keeps what is
// readable and counts the rest.
func TestDamagedLogsOfParkedDestinationsAreRepaired(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, dir string){
		"folder missing": func(t *testing.T, dir string) { check.OK(t, os.RemoveAll(dir)) },
		"a log missing":  func(t *testing.T, dir string) { check.OK(t, os.RemoveAll(oneOf(t, dir, "*"))) },
		"segment damaged": func(t *testing.T, dir string) {
			file := oneOf(t, dir, "*/*.log")
			data := check.Read(t, file)
			data[len(data)/2] ^= 1
			check.OK(t, os.WriteFile(file, data, 0o600)) //nolint:gosec // a test's
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.Apply(strings.Replace(twoTopics, "to:", "when: payload.h > 0\n    to:", 1))
			r.kafka.Shut("t", true)
			r.kafka.Shut("away", true)
			r.Publish(0, 300)
			r.Await(func() bool { return r.Journal.Stat().Needed["rules"] > r.Journal.Last() })
			epoch := r.Journal.Epoch()
			r.Kill()
			harm(t, filepath.Join(r.Dir(), "decisions", "parked"))
			if err := r.TryOpen(); !errors.Is(err, wal.ErrDamaged) {
				t.Fatal(err)
			}
			lost := repairLog(t, r.Dir(), "parked", epoch)
			if lost == 0 {
				t.Fatal("nothing is lost")
			}
			r.kafka.Shut("t", false)
			r.kafka.Shut("away", false)
			r.Open()
			r.Settled()
			if l := r.Ledger("kafka"); l.Received != 300 || l.Dropped[sink.DecisionsLost] != lost || l.Delivered != 300-lost {
				t.Fatalf("%d lost, ledger %+v", lost, l)
			}
			r.Stop()
		})
	}
}

// TestAParkedDeadLetterNamesItsRules checks that an undecodable message waits for the error topic as one dead letter,
// over a restart and a kill, and names all its rules in the end.
func TestAParkedDeadLetterNamesItsRules(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *memRig){"stop": func(r *memRig) { r.Stop() }, "kill": func(r *memRig) { r.Kill() }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.kafka.Shut(rulestest.ErrorTopic, true)
			r.Append(message.Record{Kind: message.KindPublish, Topic: "v1/" + sinktest.VIN(1) + "/up/telemetry", Payload: []byte("x")})
			r.Await(func() bool { return len(r.Dispatcher.Parked()) == 1 })
			end(r)
			r.kafka.Forget()
			r.Open()
			r.kafka.Shut(rulestest.ErrorTopic, false)
			r.Settled()
			dead := 0
			for _, m := range r.kafka.Settled() {
				if m.Dead {
					dead++
					if m.Rules != "hot,low" || m.Value != "x" {
						t.Errorf("%+v", m)
					}
				}
			}
			if l := r.Ledger("kafka"); dead != 1 || l.DeadLettered != 1 {
				t.Errorf("%d dead letters, ledger %+v", dead, l)
			}
			r.Stop()
		})
	}
}

func oneOf(t *testing.T, dir, pattern string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	return all[0]
}

//go:build bench

package bench

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var (
	latencySpan   = flag.Duration("latency-span", 10*time.Second, "length of one measurement from vehicle to Kafka")
	latencyRounds = flag.Int("latency-rounds", 1, "measurements of each server at each rate, in turns")
)

const (
	latencyConns = 200
	latencyWarm  = 3 * time.Second
	// spareWritten is the time until every segment of a new journal has been written to once, as in one that has run
	// for a while.
	spareWritten = 6 * time.Second
	// stampDigits is the number of digits of a time in ns since 1970.
	stampDigits = 19
)

// stampedAt is the offset of the digits in stamped.
const stampedAt = len(`{"due":`)

// stamped returns a telemetry message of 256 bytes with room for the time at which it is due.
func stamped() []byte {
	p := fmt.Appendf(nil, `{"due":%0*d,`, stampDigits, 0)
	return append(p, telemetry(256 - len(p) + 1)[0][1:]...)
}

// TestLatencyToKafka reports the time from the moment at which a vehicle was due to publish a message until a Kafka
// consumer has it, with the sample rules and Redis: Apache Kafka and Redis are processes of their own, publisher and
// consumer this one. In turns it measures a bridge that stores nothing.
func TestLatencyToKafka(t *testing.T) {
	kafka := harness.ApacheKafka(t, kafkaVersion, 1)
	redis, _ := harness.Redis(t)
	g := harness.StartGateway(t, harness.Options{Kafka: kafka, Redis: redis, Extra: unlimited})
	addr, p := startBridge(t, kafka, redis)
	time.Sleep(spareWritten)
	subjects := []*latencySubject{
		{name: "cellgate", process: g.Process, conns: latencyConnections(t, g.Lab), gateway: g},
		{name: "bridge, nothing durable", process: p, conns: latencyConnections(t, addr)},
	}
	out := table{
		Title: fmt.Sprintf("vehicle to Kafka consumer, sample rules, 256 B, %d vehicles, Apache Kafka %s, %v each, from when a message was due",
			latencyConns, kafkaVersion, *latencySpan),
		Columns: []string{
			"messages/s", "server", "consumed", "consumer p50 ms", "p99 ms", "max ms", "PUBACK p50 ms", "p99 ms", "server CPU µs/message",
		},
	}
	for _, rate := range []int{1000, 2000, 10000} {
		for range *latencyRounds {
			for _, s := range subjects {
				s.measure(t, &out, kafka, rate)
			}
		}
	}
	summary.add(out)
}

// latencySubject is a server of TestLatencyToKafka.
type latencySubject struct {
	name    string
	process *harness.Process
	conns   []net.Conn
	gateway *harness.Gateway // nil for the bridge
}

// latencyConnections connects the vehicles to a server.
func latencyConnections(t *testing.T, addr string) []net.Conn {
	t.Helper()
	load := Load{Addr: addr}
	conns := make([]net.Conn, latencyConns)
	for i := range conns {
		var err error
		if conns[i], err = load.connect(t.Context(), VIN(i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns
}

// measure adds a row for one rate.
func (s *latencySubject) measure(t *testing.T, out *table, k *harness.Kafka, rate int) {
	t.Helper()
	pace := Pace{
		Conns: s.conns, Period: latencyConns * time.Second / time.Duration(rate), Payload: stamped(), StampAt: stampedAt,
	}
	_, err := pace.Run(latencyWarm, nil)
	check.OK(t, err)
	c := consume(t, k, time.Now())
	used := cpu(t, s.process)
	written := profileOf(t, s.gateway, fmt.Sprintf("latency %d", rate), *latencySpan)
	p, err := pace.Run(*latencySpan, nil)
	check.OK(t, err)
	took := c.await(t, p.Sent)
	used = cpu(t, s.process) - used
	written()
	at := func(q float64) string { return ms(took[int(q*float64(len(took)-1))]) }
	out.row(rate, s.name, len(took), at(0.50), at(0.99), at(1), ms(p.P50), ms(p.P99), fmt.Sprintf("%.0f", float64(used.Microseconds())/float64(p.Sent)))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

// consumer reads the telemetry topic and records the latency of each message since it was due.
type consumer struct {
	client *kgo.Client
	since  time.Time
	cancel context.CancelFunc
	done   chan struct{}
	more   chan struct{} // took has grown

	mu   sync.Mutex
	took []time.Duration
	err  error
}

// consume starts to read messages that are due from now on.
func consume(t *testing.T, k *harness.Kafka, since time.Time) *consumer {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...), kgo.ConsumeTopics("vehicle.telemetry"))
	check.OK(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	c := &consumer{client: client, since: since, cancel: cancel, done: make(chan struct{}), more: make(chan struct{}, 1)}
	go c.run(ctx)
	return c
}

func (c *consumer) run(ctx context.Context) {
	defer close(c.done)
	for {
		fetches := c.client.PollFetches(ctx)
		now := time.Now()
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.err = errors.Join(c.err, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			due, err := stampOf(r.Value)
			c.err = errors.Join(c.err, err)
			if due.After(c.since) {
				c.took = append(c.took, now.Sub(due))
			}
		})
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
	}
}

var errNoStamp = errors.New("no time in the record")

func stampOf(value []byte) (time.Time, error) {
	if len(value) < stampedAt+stampDigits || !bytes.HasPrefix(value, []byte(`{"due":`)) {
		return time.Time{}, errNoStamp
	}
	ns, err := strconv.ParseInt(string(value[stampedAt:stampedAt+stampDigits]), 10, 64)
	return time.Unix(0, ns), err
}

// await waits for n messages, stops the consumer and returns the latencies, sorted.
func (c *consumer) await(t *testing.T, n int) []time.Duration {
	t.Helper()
	deadline := time.After(time.Minute)
	for have := -1; have < n; {
		c.mu.Lock()
		have = len(c.took)
		err := c.err
		c.mu.Unlock()
		check.OK(t, err)
		if have >= n {
			break
		}
		select {
		case <-c.more:
		case <-deadline:
			t.Fatalf("%d of %d messages consumed", have, n)
		}
	}
	c.cancel()
	<-c.done
	c.client.Close()
	slices.Sort(c.took)
	return c.took
}

package sink_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/kafka"
	"cellgate/rules/sink/redis"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/parts"
)

// discard settles at once.
type discard struct{ kind op.SinkKind }

func (d discard) Name() string                         { return string(d.kind) }
func (d discard) Kind() op.SinkKind                    { return d.kind }
func (discard) Deliver(_ *sink.Message, t sink.Ticket) { t.Delivered() }
func (discard) Health() remote.Health                  { return remote.Health{OK: true} }
func (discard) Announce([]string)                      {}
func (discard) Parker() sink.Parker                    { return nil }
func (discard) Close(context.Context) error            { return nil }
func discards(kinds ...op.SinkKind) (out []sink.Binding) {
	for _, k := range kinds {
		out = append(out, sink.Binding{Sink: discard{k}})
	}
	return out
}

// sampleRules returns the shipped rules.
func sampleRules(b *testing.B) string {
	b.Helper()
	src, err := lang.Load("../../configs/rules")
	check.OK(b, err)
	var text strings.Builder
	for _, name := range src.Files() {
		if !strings.HasSuffix(name, ".rules.yaml") {
			continue
		}
		part := string(src.Bytes(name))
		if text.Len() > 0 { // one file: one schema, one list of rules
			_, part, _ = strings.Cut(part, "\nrules:\n")
		}
		text.WriteString(part)
	}
	return text.String()
}

func benchPayload(i, size int) []byte {
	p := fmt.Sprintf(`{"ts":%d,"soc":%.1f,"speed":%.1f,"lat":31.2304,"lon":121.4737,"odometer":%d.4,"temp":21.5,"state":"driving","fill":"`,
		1763600000000+i*10, 20+float64(i%600)/10, float64(i%1200)/10, 18000+i)
	return []byte(p + strings.Repeat("x", max(0, size-len(p)-2)) + `"}`)
}

// run measures b.N messages from the journal to the last settled ticket, and reports the process's CPU time per
// message, which other processes hardly affect.
func run(b *testing.B, size int, sinks func() []sink.Binding) {
	b.Helper()
	measure(b, size, sampleRules(b), runtime.GOMAXPROCS(0), sinks)
}

func measure(b *testing.B, size int, rules string, workers int, sinks func() []sink.Binding) {
	b.Helper()
	var bindings []sink.Binding
	r := sinktest.New(b, sinktest.Setup{
		Rules:  rules,
		Sinks:  func() []sink.Binding { bindings = sinks(); return bindings },
		Change: func(o *sink.Options) { o.Workers, o.CheckpointInterval, o.SegmentBytes = workers, time.Second, 8<<20 },
	})
	var recs []message.Record
	for i := range 64 {
		v := sinktest.VIN(i % 1000)
		recs = append(recs, message.Record{
			Kind: message.KindPublish, QoS: 1, PacketID: 1, Client: v, Topic: "v1/" + v + "/up/telemetry", Payload: benchPayload(i, size),
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	for n := 0; n < b.N; n += len(recs) {
		_, err := r.Journal.Append(recs[:min(len(recs), b.N-n)], nil)
		check.OK(b, err)
	}
	r.Await(func() bool {
		for _, l := range r.Dispatcher.Ledger() {
			if l.Received < uint64(b.N) || l.Pending > 0 { //nolint:gosec // positive
				return false
			}
		}
		return true
	})
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/msg")
	r.Stop()
}

func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDispatch measures journal, rules, rendering and ledger without a store.
func BenchmarkDispatch(b *testing.B) {
	for _, size := range []int{256, 1024} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			run(b, size, func() []sink.Binding { return discards(op.SinkKafka, op.SinkRedis, op.SinkCentral) })
		})
	}
}

// BenchmarkToKafka adds the Kafka sinks and a broker in this process that discards the records; the result includes its
// cost.
func BenchmarkToKafka(b *testing.B) {
	for _, size := range []int{256, 1024} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			c := fakekafka.Cluster(b, kfake.BlackholeProduce())
			run(b, size, func() []sink.Binding { return append(kafkas(b, c), discards(op.SinkRedis)...) })
		})
	}
}

func kafkas(b *testing.B, c *kfake.Cluster) []sink.Binding {
	b.Helper()
	var out []sink.Binding
	for _, outbox := range []bool{false, true} {
		o := parts.Producer(c.ListenAddrs())
		o.AutoCreate, o.Linger = &kafkaclient.TopicSpec{Partitions: 6, Replication: 1}, 5*time.Millisecond
		p, err := kafkaclient.NewProducer(o)
		check.OK(b, err)
		out = append(out, sink.Binding{Sink: kafka.New(kafka.Options{Producer: p, Cell: "cell-1", Outbox: outbox})})
	}
	return out
}

// BenchmarkToRedis adds the Redis sink. It uses the server in CELLGATE_BENCH_REDIS, else one in this process, whose
// cost the result includes.
func BenchmarkToRedis(b *testing.B) {
	addr := os.Getenv("CELLGATE_BENCH_REDIS")
	if addr == "" {
		addr = miniredis.RunT(b).Addr()
	}
	run(b, 256, func() []sink.Binding {
		client := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true})
		s, err := redis.New(redis.Options{Client: client, Pace: remote.NormalPace(), Log: slog.New(slog.DiscardHandler)})
		check.OK(b, err)
		return append(discards(op.SinkKafka, op.SinkCentral), sink.Binding{Sink: s})
	})
}

// BenchmarkWorkers measures the path from the journal through rules to discarding sinks by number of evaluating
// goroutines: with the sample rules; with 5,000 rules on the topic of which three match; and with 200 that no index
// helps.
func BenchmarkWorkers(b *testing.B) {
	heavy := "rules:\n"
	for i := range 200 {
		heavy += fmt.Sprintf("  - {id: h%d, from: [\"v1/+/up/telemetry\"], when: payload.speed * 2 + payload.soc > 5000 + %d, to: [{kafka: {topic: t}}]}\n", i, i)
	}
	many := "rules:\n"
	for i := range 5000 {
		when := fmt.Sprintf("payload.soc < -%d and payload.state == \"driving\"", i)
		if i%2000 == 0 {
			when = "payload.speed >= 0"
		}
		many += fmt.Sprintf("  - {id: m%d, from: [\"v1/+/up/telemetry\"], when: '%s', to: [{kafka: {topic: t}}]}\n", i, when)
	}
	for _, set := range []struct{ name, rules string }{{"samples", sampleRules(b)}, {"5000indexed", many}, {"200unindexed", heavy}} {
		for _, workers := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/%dworkers", set.name, workers), func(b *testing.B) {
				measure(b, 256, set.rules, workers, func() []sink.Binding { return discards(op.SinkKafka, op.SinkRedis, op.SinkCentral) })
			})
		}
	}
}

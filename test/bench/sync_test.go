//go:build bench

package bench

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var (
	syncRecords = flag.Int("sync-records", 2_000_000, "records of 256 B that the way to the centre is measured with; of 1 KB a third")
	syncRounds  = flag.Int("sync-rounds", 3, "alternating rounds on the way to the centre")
	syncSpan    = flag.Duration("sync-span", 15*time.Second, "length of one measurement over a line")
)

const (
	syncPartitions = 4
	alarmEvery     = 50 * time.Millisecond
	wideRTT        = 50 * time.Millisecond
)

// syncRig is a cell's Kafka with its outbox, and a centre with or without a slow line to it.
type syncRig struct {
	t             *testing.T
	line          *harness.WideLink
	cell, central *harness.Kafka
	adm           *kadm.Client // of the centre
	writer        *kgo.Client  // of the cell
	runs          int
}

// lines are the topics by lane: those of the outbox, and the central ones that the worker writes. MirrorMaker keeps the
// names.
var (
	outboxTopics  = []string{"central.p0", "central.p1", "central.p2"}
	centralTopics = []string{"fleet.p0", "fleet.p1", "fleet.p2"}
)

func newSyncRig(t *testing.T, rate float64) *syncRig {
	t.Helper()
	r := &syncRig{t: t, line: harness.NewWideLink(t, rate, wideRTT)}
	r.cell = harness.ApacheKafka(t, kafkaVersion, 1)
	r.central = harness.WideKafka(t, kafkaVersion, 1, r.line)
	return r
}

// client returns a client of a cluster without the line. It knows topics by their ID, so recreated topics need another
// client.
func (r *syncRig) client(k *harness.Kafka) *kgo.Client {
	return k.Client(r.t, kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(900<<10), kgo.MaxBufferedRecords(50000))
}

// mirror copies the outbox to the centre. start starts it; topics are those that it writes, by lane.
type mirror struct {
	name   string
	topics []string
	start  func(r *syncRig, centre []string) *harness.Process
}

func mirrors() []mirror {
	return []mirror{
		{"cellgate sync", centralTopics, func(r *syncRig, centre []string) *harness.Process {
			return r.worker(centre, "bandwidth: 0B/s")
		}},
		{"MirrorMaker 2", outboxTopics, func(r *syncRig, centre []string) *harness.Process {
			return harness.MirrorMaker(r.t, kafkaVersion, fmt.Sprintf("cell%d", r.runs), r.cell.Direct(), centre, "central\\\\.p.", syncPartitions)
		}},
	}
}

// worker starts a standalone sync worker, with further keys of central.
func (r *syncRig) worker(centre []string, keys string) *harness.Process {
	r.t.Helper()
	g := harness.PrepareGateway(r.t, harness.Options{Kafka: r.cell, Central: &harness.Kafka{Brokers: centre}, NoRules: true})
	g.Change("central: {", fmt.Sprintf("central: {group: run-%d, %s, ", r.runs, keys))
	return harness.StartProcess(r.t, "sync", g.Dir, nil, harness.Binary(r.t), "sync", "--config", g.Config)
}

// TestSyncKeepsToItsCap measures the worker's bytes on the line with a cap for all lanes, and with one for each.
func TestSyncKeepsToItsCap(t *testing.T) {
	r := newSyncRig(t, 100e6)
	for keys, rate := range map[string]float64{
		"bandwidth: 1000KiB/s": 1000 << 10,
		"bandwidth: 0B/s, lane_bandwidth: {p1: 600KiB/s, p2: 300KiB/s}": 900 << 10,
	} {
		r.begin()
		n := int(rate*(syncSpan.Seconds()+10)/60) + 1
		r.fill(1, n, 256)
		r.fill(2, n, 256)
		p := r.worker(r.central.Brokers, keys)
		check.Within(t, 3*time.Minute, "the first records", func() error {
			if r.arrived(centralTopics[1]) == 0 {
				return fmt.Errorf("none")
			}
			return nil
		})
		time.Sleep(3 * time.Second)
		before, began := r.carriedUp(), time.Now()
		time.Sleep(*syncSpan)
		have := (r.carriedUp() - before) / time.Since(began).Seconds()
		p.Kill()
		fmt.Printf("%s: %.0f bytes/s on the line, %+.1f %%\n", keys, have, 100*(have/rate-1))
		summary.atMost("on the wire under "+keys, 100*math.Abs(have/rate-1), "% from it", 5, 0)
	}
}

func (r *syncRig) carriedUp() float64 {
	up, _ := r.line.Carried()
	return float64(up)
}

// begin empties all topics.
func (r *syncRig) begin() {
	r.t.Helper()
	r.runs++
	r.cell.MakeTopics(syncPartitions, outboxTopics...)
	r.central.MakeTopics(syncPartitions, append(slices.Clone(outboxTopics), centralTopics...)...)
	r.adm, r.writer = kadm.NewClient(r.client(r.central)), r.client(r.cell)
}

// driving returns a message of about size bytes as driving vehicles send it: it compresses to about a third.
func driving(rng *rand.Rand, size int) []byte {
	p := fmt.Appendf(nil, `{"ts":%d,"speed":%.1f,"soc":%.1f,"odometer":%.1f,"lat":%.6f,"lon":%.6f,"temp_battery":%.1f,"temp_motor":%.1f,`+
		`"voltage":%.1f,"current":%.1f,"gear":"D","charging":false`,
		1_790_000_000_000+rng.Int64N(1e9), rng.Float64()*130, rng.Float64()*100, rng.Float64()*2e5, 31+rng.Float64(), 121+rng.Float64(),
		20+rng.Float64()*9, 40+rng.Float64()*11, 360+rng.Float64()*30, rng.Float64()*200-100)
	for cell := 0; len(p) < size-20; cell++ {
		p = fmt.Appendf(p, `,"cell_%02d":%.3f`, cell, 3.5+rng.Float64()*0.6)
	}
	return append(p, '}')
}

// fill writes n records of size bytes to a lane's outbox topic.
func (r *syncRig) fill(lane, n, size int) {
	r.t.Helper()
	values := make([][]byte, 200_000)
	rng := rand.New(rand.NewPCG(1, uint64(size))) //nolint:gosec // repeatable
	for i := range values {
		values[i] = driving(rng, size)
	}
	var failed error
	var mu sync.Mutex
	for i := range n {
		r.writer.Produce(r.t.Context(), outboxRecord(lane, VIN(i%5000), values[rng.IntN(len(values))]), func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	check.OK(r.t, r.writer.Flush(r.t.Context()))
	check.OK(r.t, failed)
}

func outboxRecord(lane int, key string, value []byte) *kgo.Record {
	r := &kgo.Record{Topic: outboxTopics[lane], Key: []byte(key), Value: value}
	for _, h := range [][2]string{
		{"central-topic", centralTopics[lane]},
		{"cell", "cell-test-01"},
		{"vin", key},
		{"topic", "v1/" + key + "/up/telemetry"},
		{"rule", "telemetry"},
		{"target", "0"},
	} {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return r
}

// arrived returns the number of records of a topic of the centre.
func (r *syncRig) arrived(topic string) (n int64) {
	r.t.Helper()
	ends, err := r.adm.ListEndOffsets(r.t.Context(), topic)
	check.OK(r.t, err)
	ends.Each(func(o kadm.ListedOffset) { n += max(0, o.Offset) })
	return n
}

// passage is the result of one mirror in a measurement.
type passage struct {
	rate   float64 // records per second
	perCPU float64 // records per second of processor time
	rss    float64 // most resident, in MiB
	wire   float64 // bytes per second on the line
	p99    float64 // of alarms from the outbox to the centre, in ms
}

// watch measures a process from the arrival of record from of a topic until all have arrived, or for at most a time.
func (r *syncRig) watch(p *harness.Process, topic string, from, all int64, most time.Duration) (m passage) {
	r.t.Helper()
	check.Within(r.t, 3*time.Minute, "the first records of "+topic, func() error {
		if n := r.arrived(topic); n < from {
			return fmt.Errorf("%d of %d", n, from)
		}
		return nil
	})
	was, used, began := r.arrived(topic), cpu(r.t, p), time.Now()
	up, _ := r.line.Carried()
	n := was
	for n < all && time.Since(began) < most {
		time.Sleep(20 * time.Millisecond)
		n = r.arrived(topic)
		rss, err := p.RSS()
		check.OK(r.t, err)
		m.rss = max(m.rss, float64(rss)/(1<<20))
	}
	took := time.Since(began).Seconds()
	now, _ := r.line.Carried()
	m.rate, m.wire = float64(n-was)/took, float64(now-up)/took
	m.perCPU = float64(n-was) / (cpu(r.t, p) - used).Seconds()
	return m
}

// TestSyncAgainstMirrorMaker has the worker and MirrorMaker 2 copy a backlog of one lane in turns on one machine. The
// first fifth is not counted, because a JVM compiles.
func TestSyncAgainstMirrorMaker(t *testing.T) {
	r := newSyncRig(t, 1e12)
	for _, size := range []int{256, 1024} {
		n := *syncRecords
		if size > 256 {
			n /= 3
		}
		got := map[string][]passage{}
		for round := range *syncRounds {
			for _, m := range mirrors() {
				r.begin()
				r.fill(1, n, size)
				p := m.start(r, r.central.Direct())
				x := r.watch(p, m.topics[1], int64(n/5), int64(n), time.Hour)
				p.Kill()
				got[m.name] = append(got[m.name], x)
				fmt.Printf("round %d/%d  %4d B  %-14s %9.0f records/s  %9.0f per CPU second  %5.0f MiB\n", round+1, *syncRounds, size, m.name, x.rate, x.perCPU, x.rss)
			}
		}
		name := fmt.Sprintf("outbox to centre, one machine, %d B", size)
		out := table{
			Title:   fmt.Sprintf("%s, %d records, %d partitions, Apache Kafka %s, medians of %d rounds", name, n, syncPartitions, kafkaVersion, *syncRounds),
			Columns: []string{"", "records/s", "records per CPU second", "RSS MiB"},
		}
		a, b := middling(got["cellgate sync"]), middling(got["MirrorMaker 2"])
		for _, m := range mirrors() {
			x := middling(got[m.name])
			out.row(m.name, fmt.Sprintf("%.0f", x.rate), fmt.Sprintf("%.0f", x.perCPU), fmt.Sprintf("%.0f", x.rss))
		}
		out.row("ratio", fmt.Sprintf("%.2f", a.rate/b.rate), fmt.Sprintf("%.2f", a.perCPU/b.perCPU), fmt.Sprintf("%.2f", a.rss/b.rss))
		summary.add(out)
		summary.atLeast(name+": records per CPU second", a.perCPU/b.perCPU, "× MirrorMaker 2", 2, 0)
		summary.atMost(name+": RSS", a.rss/b.rss, "× MirrorMaker 2", 0.25, 0)
	}
}

// middling returns the median of each figure.
func middling(all []passage) passage {
	of := func(figure func(passage) float64) float64 {
		var v []float64
		for _, p := range all {
			v = append(v, figure(p))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return passage{
		rate: of(func(p passage) float64 { return p.rate }), perCPU: of(func(p passage) float64 { return p.perCPU }),
		rss: of(func(p passage) float64 { return p.rss }), wire: of(func(p passage) float64 { return p.wire }), p99: of(func(p passage) float64 { return p.p99 }),
	}
}

// TestSyncOverALine copies backlogs of p1 and p2 over 50 ms, with an alarm in p0 every 50 ms.
func TestSyncOverALine(t *testing.T) {
	for _, l := range []struct {
		rate, use, p99 float64
		compared       bool
	}{
		{rate: 10e6, use: 0.8, p99: 200, compared: true},
		{rate: 2e6, p99: 250},
	} {
		name := fmt.Sprintf("outbox to centre over %s and %.0f MB/s", wideRTT, l.rate/1e6)
		r := newSyncRig(t, l.rate)
		got := map[string][]passage{}
		for round := range *syncRounds {
			for _, m := range mirrors() {
				if m.name != "cellgate sync" && !l.compared {
					continue
				}
				x := r.overALine(m)
				got[m.name] = append(got[m.name], x)
				fmt.Printf("round %d/%d  %.0f MB/s  %-14s %9.0f records/s  %3.0f %% of the line  p0 p99 %5.0f ms\n", round+1, *syncRounds, l.rate/1e6, m.name, x.rate, 100*x.wire/l.rate, x.p99)
			}
		}
		out := table{
			Title:   fmt.Sprintf("%s, 256 B in p1 and p2, an alarm every %s in p0, Apache Kafka %s, medians of %d rounds of %s", name, alarmEvery, kafkaVersion, *syncRounds, *syncSpan),
			Columns: []string{"", "records/s of p1", "% of the line", "p0 p99 ms"},
		}
		a := middling(got["cellgate sync"])
		for _, m := range mirrors() {
			if len(got[m.name]) > 0 {
				x := middling(got[m.name])
				out.row(m.name, fmt.Sprintf("%.0f", x.rate), fmt.Sprintf("%.0f", 100*x.wire/l.rate), fmt.Sprintf("%.0f", x.p99))
			}
		}
		summary.add(out)
		summary.atMost(name+": p0 p99", a.p99, "ms", l.p99, 0)
		if l.compared {
			b := middling(got["MirrorMaker 2"])
			summary.atLeast(name+": records/s", a.rate/b.rate, "× MirrorMaker 2", 1, 0)
			summary.atLeast(name+": use of the line", a.wire/l.rate, "of its rate", l.use, 0)
		}
	}
}

// overALine measures one mirror.
func (r *syncRig) overALine(m mirror) passage {
	r.t.Helper()
	r.begin()
	backlog := *syncRecords * 3 / 2
	r.fill(1, backlog, 256)
	r.fill(2, backlog/4, 256)
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	p := m.start(r, r.central.Brokers)
	defer p.Kill()
	a := &alarms{}
	wg.Go(func() { a.send(ctx, r) })
	wg.Go(func() { a.hear(ctx, r, m.topics[0]) })
	check.Within(r.t, 3*time.Minute, "the first records", func() error {
		if r.arrived(m.topics[1]) == 0 || r.arrived(m.topics[0]) == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	time.Sleep(5 * time.Second) // until the flow has measured the line
	a.begin()
	x := r.watch(p, m.topics[1], 1, int64(backlog), *syncSpan)
	x.p99 = a.p99()
	if n := r.arrived(m.topics[1]); n >= int64(backlog) {
		r.t.Logf("the backlog of %d records was gone before the end: raise -sync-records", backlog)
	}
	return x
}

// alarms are records of p0 with the time of their creation.
type alarms struct {
	mu   sync.Mutex
	took []time.Duration
}

func (a *alarms) send(ctx context.Context, r *syncRig) {
	tick := time.NewTicker(alarmEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			value := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())) //nolint:gosec // positive
			value = append(value, strings.Repeat("a", 200)...)
			r.writer.Produce(ctx, outboxRecord(0, VIN(i), value), nil)
		case <-ctx.Done():
			return
		}
	}
}

func (a *alarms) hear(ctx context.Context, r *syncRig, topic string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.central.Direct()...), kgo.ConsumeTopics(topic), kgo.FetchMaxWait(100*time.Millisecond))
	check.OK(r.t, err)
	defer cl.Close()
	for ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(rec *kgo.Record) {
			took := time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(rec.Value)))) //nolint:gosec // as it was made
			a.mu.Lock()
			a.took = append(a.took, took)
			a.mu.Unlock()
		})
	}
}

// begin forgets earlier alarms.
func (a *alarms) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.took = nil
}

func (a *alarms) p99() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.took) == 0 {
		return -1
	}
	slices.Sort(a.took)
	return float64(a.took[len(a.took)*99/100]) / float64(time.Millisecond)
}

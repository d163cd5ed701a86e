package app

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/auth"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/configs"
	syncer "cellgate/sync"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
)

// put writes values to a topic, as bound for fleet.a at the centre.
func put(t *testing.T, cl *kgo.Client, topic string, at time.Time, values ...string) {
	t.Helper()
	var recs []*kgo.Record
	for _, v := range values {
		recs = append(recs, &kgo.Record{
			Topic: topic, Value: []byte(v), Timestamp: at, Headers: []kgo.RecordHeader{{Key: kafkaclient.HeaderCentralTopic, Value: []byte("fleet.a")}},
		})
	}
	check.OK(t, cl.ProduceSync(t.Context(), recs...).FirstErr())
}

// writeCentre writes a configuration with a cell's Kafka and a central one.
func writeCentre(t *testing.T, dir string, cell, central *kfake.Cluster, extra string) string {
	t.Helper()
	writeRules(t, dir, "a")
	file := filepath.Join(dir, "cell.yaml")
	harness.WriteConfig(t, file, smallJournal+fmt.Sprintf("kafka: {brokers: [%q], timeout: 2s, auto_create_topics: true}\ncentral: {kafka: {brokers: [%q], timeout: 2s%s}}\n",
		cell.ListenAddrs()[0], central.ListenAddrs()[0], extra))
	return file
}

func operator(t *testing.T, a *App) string {
	t.Helper()
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "olga", Role: auth.RoleOperator, Scopes: auth.Scopes()})
	check.OK(t, err)
	return token
}

func metrics(t *testing.T, a *App) string {
	t.Helper()
	_, _, text, err := harness.Call(t.Context(), http.MethodGet, a.HTTPURL()+"/metrics", "", nil)
	check.OK(t, err)
	return string(text)
}

// A gap in the outbox is reported everywhere. A skip is recorded and audited with the operator's name.
func TestSyncSkip(t *testing.T) {
	t.Parallel()
	cell := fakekafka.Cluster(t, kfake.SeedTopics(1, append(kafkaclient.OutboxTopics(), topicCommands)...))
	cl := fakekafka.Client(t, cell)
	central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
	values := strings.Split(strings.Repeat("v,", 99)+"v", ",")
	put(t, cl, "central.p0", time.Now(), values...)
	fakekafka.Expire(t, cell, "central.p0", 80)
	dir := t.TempDir()
	a, log := boot(t, writeCentre(t, dir, cell, central, ""))
	awaitDegraded(t, a, "redis", "sync-p0")
	var ready readiness
	get(t, a, "/readyz", "", &ready)
	const what = "central.p0/0: records 0 to 79 are gone"
	if b, _ := json.Marshal(ready); !strings.Contains(string(b), what) || !strings.Contains(string(b), "cellgate sync skip p0") {
		t.Errorf("/readyz %s", b)
	}
	for _, want := range []string{
		`cellgate_sync_lane_stopped{cell="cell-1",lane="p0"} 1`, `cellgate_sync_lane_stopped{cell="cell-1",lane="p1"} 0`,
		`cellgate_sync_gap_first_offset{cell="cell-1",lane="p0",partition="0",topic="central.p0"} 0`,
		`cellgate_sync_gap_last_offset{cell="cell-1",lane="p0",partition="0",topic="central.p0"} 79`,
	} {
		if !strings.Contains(metrics(t, a), want+"\n") {
			t.Errorf("no metric %s", want)
		}
	}
	if l := log.String(); !strings.Contains(l, `"topic":"central.p0","partition":0,"from":0,"to":79`) {
		t.Errorf("log %s", l)
	}
	for body, want := range map[string]int{`{"lane":"p9"}`: 400, `{"lane":"p1"}`: 409, `{"all":true}`: 400} {
		if status := post(t, a, "/v1/sync/skip", body); status != want {
			t.Errorf("skip %s: %d, want %d", body, status, want)
		}
	}
	if n := fakekafka.Count(t, central, "fleet.a"); n != 0 {
		t.Fatalf("%d records are at the centre before the skip", n)
	}
	if status := post(t, a, "/v1/sync/skip", `{"lane":"p0"}`); status != 200 {
		t.Errorf("skip: %d", status)
	}
	check.Eventually(t, "what is after the gap", func() bool { return fakekafka.Count(t, central, "fleet.a") == 20 })
	awaitDegraded(t, a, "redis")
	if m := metrics(t, a); !strings.Contains(m, `cellgate_sync_skipped_records_total{cell="cell-1",lane="p0"} 80`+"\n") {
		t.Error("the skip is not counted")
	}
	audit, err := os.ReadFile(filepath.Join(dir, "state", "audit.log"))
	if err != nil || !strings.Contains(string(audit), what) || !strings.Contains(string(audit), `"by":"operator olga"`) {
		t.Errorf("audit log %s, %v", audit, err)
	}
	halt(t, a)
	a, _ = boot(t, filepath.Join(dir, "cell.yaml"))
	var s SyncAnswer
	if get(t, a, "/v1/sync", operator(t, a), &s) != 200 || len(s.Skipped) != 1 || !s.Skipped[0].Done || s.Skipped[0].By != "operator olga" || s.Skipped[0].Next != 80 || *s.Skipped[0].Records != 80 {
		t.Errorf("after a restart: %+v", s)
	}
	check.Eventually(t, "the lag", func() bool { get(t, a, "/v1/sync", operator(t, a), &s); return s.Lanes[0].Known })
	if *s.Lanes[0].LagRecords != 0 || len(s.Lanes[0].Gaps) != 0 {
		t.Errorf("after a restart: %+v", s)
	}
}

// Without the cell's Kafka the lag is unknown, not 0.
func TestLagThatIsNotKnown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(t, dir, "a")
	a, _ := boot(t, write(t, dir, ""))
	var s struct{ Lanes []map[string]any }
	get(t, a, "/v1/status", operator(t, a), &s)
	if len(s.Lanes) != 3 || s.Lanes[0]["known"] != false || s.Lanes[0]["lag_records"] != nil || s.Lanes[0]["lag_seconds"] != nil {
		t.Errorf("%+v", s)
	}
	for _, want := range []string{`lag_messages{cell="cell-1",lane="p0"} NaN`, `lag_seconds{cell="cell-1",lane="p0"} NaN`, `lag_known{cell="cell-1",lane="p0"} 0`} {
		if !strings.Contains(metrics(t, a), "cellgate_sync_"+want+"\n") {
			t.Errorf("no metric %s", want)
		}
	}
}

// Missing records of vehicle.commands are counted and reported, and reading continues. Records too old to matter raise
// no alarm.
func TestCommandsThatAreGone(t *testing.T) {
	t.Parallel()
	old, fresh := time.Now().Add(-8*24*time.Hour), time.Now()
	const group = "cellgate-commands"
	for name, c := range map[string]struct {
		behind, age string
		at          time.Time
		gone        int
	}{
		"fresh":         {behind: "x", at: fresh, age: "unknown", gone: 7},
		"expired":       {behind: "x", at: old, age: "expired", gone: 7},
		"nothing there": {age: "unknown", gone: 7, at: fresh},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cell := fakekafka.Cluster(t, kfake.SeedTopics(1, append(kafkaclient.OutboxTopics(), topicCommands)...))
			cl := fakekafka.Client(t, cell)
			central := fakekafka.Cluster(t)
			values := strings.Split("a,b,c,d,e,f,g,h,i,j", ",")
			if c.behind != "" {
				values = append(values, c.behind)
			}
			put(t, cl, topicCommands, c.at, values...)
			committed := kadm.Offsets{}
			committed.AddOffset(topicCommands, 0, 3, -1)
			check.OK(t, kadm.NewClient(cl).CommitAllOffsets(t.Context(), group, committed))
			fakekafka.Expire(t, cell, topicCommands, 10)
			dir := t.TempDir()
			a, log := boot(t, writeCentre(t, dir, cell, central, ""))
			check.Eventually(t, "the report", func() bool { return strings.Contains(log.String(), "records 3 to 9 are gone") })
			for metric, n := range map[string]int{"gaps_total": 1, "records_gone_total": c.gone} {
				want := fmt.Sprintf("cellgate_command_%s{age=%q,cell=\"cell-1\"} %d\n", metric, c.age, n)
				if !strings.Contains(metrics(t, a), want) {
					t.Errorf("no metric %s", want)
				}
			}
			var s Status
			get(t, a, "/v1/status", operator(t, a), &s)
			if alarm := s.Commands.Gone != nil; alarm != (c.age == "unknown") || (alarm && *s.Commands.Gone.Records != 7) {
				t.Errorf("status %+v", s.Commands.Gone)
			}
			if strings.Contains(log.String(), `"level":"ERROR"`) != (c.age == "unknown") {
				t.Errorf("log %s", log.String())
			}
			halt(t, a)
			_, log = boot(t, filepath.Join(dir, "cell.yaml")) // logged once
			put(t, cl, topicCommands, time.Now(), "last")
			check.Eventually(t, "the last record", func() bool { return strings.Contains(log.String(), "is not a command") })
			if strings.Contains(log.String(), "are gone") {
				t.Error("told again after a restart")
			}
		})
	}
}

// batches are the batches that a cluster received.
type batches struct {
	mu     sync.Mutex
	counts []int
	codecs []byte
}

func watchBatches(c *kfake.Cluster) *batches {
	b := &batches{}
	c.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				b.counts = append(b.counts, int(binary.BigEndian.Uint32(p.Records[57:])))
				b.codecs = append(b.codecs, p.Records[22]&7)
			}
		}
		return nil, nil, false
	})
	return b
}

func (b *batches) seen() (counts []int, codecs []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]int(nil), b.counts...), bytes.Clone(b.codecs)
}

// forwarding starts a sync worker alone, with the settings of central.kafka.
func forwarding(t *testing.T, cell, central *kfake.Cluster, extra string, change func(*configs.Kafka)) *syncer.Syncer {
	t.Helper()
	cfg, err := configs.Load(writeCentre(t, t.TempDir(), cell, central, extra))
	check.OK(t, err)
	change(&cfg.Central[0].Kafka)
	o, err := syncOptions(cfg, 0, slog.New(slog.DiscardHandler), kafkaclient.NewMetrics(nil))
	check.OK(t, err)
	o.Owner, o.Metrics = "me", syncer.NewMetrics(nil, false)
	s, err := syncer.New(o)
	check.OK(t, err)
	s.Start()
	t.Cleanup(func() { _ = s.Stop(t.Context()) })
	return s
}

// Every key of central.kafka about writing has its effect on the centre's records.
func TestKeysOfCentralKafka(t *testing.T) {
	t.Parallel()
	nothing := func(*configs.Kafka) {}
	start := func(t *testing.T, extra string, change func(*configs.Kafka)) (*kgo.Client, *batches, *syncer.Syncer) {
		cell := fakekafka.Cluster(t, kfake.SeedTopics(1, kafkaclient.OutboxTopics()...))
		cl := fakekafka.Client(t, cell)
		central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
		return cl, watchBatches(central), forwarding(t, cell, central, extra, change)
	}
	for codec, want := range map[string]byte{"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4} {
		t.Run("compression "+codec, func(t *testing.T) {
			t.Parallel()
			cl, b, _ := start(t, ", compression: "+codec, nothing)
			put(t, cl, "central.p0", time.Now(), strings.Repeat("v", 1000))
			check.Eventually(t, "a batch", func() bool { _, all := b.seen(); return len(all) == 1 })
			if _, all := b.seen(); all[0] != want {
				t.Errorf("compression %d, want %d", all[0], want)
			}
		})
	}
	t.Run("batch_bytes", func(t *testing.T) {
		t.Parallel()
		cl, b, _ := start(t, ", batch_bytes: 1KiB", func(k *configs.Kafka) { k.Linger = configs.Duration(time.Hour) })
		values := strings.Split(strings.Repeat(strings.Repeat("v", 300)+",", 19)+"v", ",")
		put(t, cl, "central.p0", time.Now(), values...)
		check.Eventually(t, "batches", func() bool { all, _ := b.seen(); return len(all) >= 6 })
		if all, _ := b.seen(); all[0] > 3 {
			t.Errorf("batches of %v records of 300 bytes", all)
		}
	})
	t.Run("linger", func(t *testing.T) {
		t.Parallel()
		cl, b, s := start(t, ", batch_bytes: 1KiB", func(k *configs.Kafka) { k.Linger = configs.Duration(time.Hour) })
		put(t, cl, "central.p0", time.Now(), "v")
		check.Eventually(t, "the first record leaves at once", func() bool { all, _ := b.seen(); return len(all) == 1 })
		check.Eventually(t, "it is written", func() bool { l := s.Lanes()[0]; return l.Known && l.Messages == 0 })
		put(t, cl, "central.p0", time.Now(), "v")
		check.Eventually(t, "the next is read", func() bool { l := s.Lanes()[0]; return l.Known && l.Messages == 1 })
		put(t, cl, "central.p0", time.Now(), strings.Repeat("v", 400), strings.Repeat("v", 800)) // the last is more than a batch holds
		check.Eventually(t, "another batch", func() bool { all, _ := b.seen(); return len(all) > 1 })
		if all, _ := b.seen(); all[1] != 2 {
			t.Errorf("batches of %v records", all)
		}
	})
	t.Run("missing_topic_grace", func(t *testing.T) {
		t.Parallel()
		cell := fakekafka.Cluster(t, kfake.SeedTopics(1, append(kafkaclient.OutboxTopics(), syncer.ErrorTopic)...))
		cl := fakekafka.Client(t, cell)
		central := fakekafka.Cluster(t)
		forwarding(t, cell, central, ", missing_topic_grace: 1s", nothing)
		put(t, cl, "central.p0", time.Now(), "v")
		check.Eventually(t, "the record in the error topic", func() bool { return fakekafka.Count(t, cell, syncer.ErrorTopic) == 1 })
	})
}

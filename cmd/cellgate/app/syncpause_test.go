package app

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// A paused lane stays stopped until it is resumed, also over a restart, while the others continue. Pauses are audited.
func TestSyncPause(t *testing.T) {
	t.Parallel()
	cell := fakekafka.Cluster(t, kfake.SeedTopics(1, append(kafkaclient.OutboxTopics(), topicCommands)...))
	cl := fakekafka.Client(t, cell)
	central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
	dir := t.TempDir()
	a, _ := boot(t, writeCentre(t, dir, cell, central, ""))
	if status := post(t, a, "/v1/sync/pause", `{"lane":"p3"}`); status != http.StatusBadRequest {
		t.Errorf("pause of no lane: %d", status)
	}
	if status := post(t, a, "/v1/sync/pause", `{"lane":"p1","centre":"other"}`); status != http.StatusBadRequest {
		t.Errorf("pause towards no centre: %d", status)
	}
	if status := post(t, a, "/v1/sync/pause", `{"lane":"p1"}`); status != http.StatusOK {
		t.Fatalf("pause: %d", status)
	}
	put(t, cl, "central.p1", time.Now(), "stands")
	put(t, cl, "central.p2", time.Now(), "goes")
	check.Eventually(t, "what is not paused", func() bool { return fakekafka.Count(t, central, "fleet.a") == 1 })
	halt(t, a)
	a, _ = boot(t, filepath.Join(dir, "cell.yaml"))
	var s SyncAnswer
	check.Eventually(t, "the lag", func() bool {
		get(t, a, "/v1/sync", operator(t, a), &s)
		return s.Lanes[1].Known && *s.Lanes[1].LagRecords == 1
	})
	if !s.Lanes[1].Paused || s.Lanes[2].Paused || len(s.Paused) != 1 || s.Paused[0].By != "operator olga" {
		t.Errorf("after a restart: %+v", s)
	}
	if m := metrics(t, a); !strings.Contains(m, `cellgate_sync_lane_paused{cell="cell-1",lane="p1"} 1`+"\n") {
		t.Error("no metric says that the lane is paused")
	}
	put(t, cl, "central.p2", time.Now(), "goes")
	check.Eventually(t, "what is not paused", func() bool { return fakekafka.Count(t, central, "fleet.a") == 2 })
	if status := post(t, a, "/v1/sync/resume", ""); status != http.StatusOK {
		t.Fatalf("resume: %d", status)
	}
	check.Eventually(t, "what was paused", func() bool { return fakekafka.Count(t, central, "fleet.a") == 3 })
	audit, err := os.ReadFile(filepath.Join(dir, "state", "audit.log"))
	if err != nil || !strings.Contains(string(audit), "/v1/sync/pause") || !strings.Contains(string(audit), "/v1/sync/resume") {
		t.Errorf("audit log %s, %v", audit, err)
	}
}

// Addresses and credentials of the centre can be replaced without a restart. A broken set changes nothing.
func TestTheCentreIsReloaded(t *testing.T) {
	t.Parallel()
	cell := fakekafka.Cluster(t, kfake.SeedTopics(1, append(kafkaclient.OutboxTopics(), topicCommands)...))
	cl := fakekafka.Client(t, cell)
	before, after := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a")), fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"),
		kfake.EnableSASL(), kfake.Superuser("PLAIN", "cell", "secret"))
	file := writeCentre(t, t.TempDir(), cell, before, "")
	a, _ := boot(t, file)
	put(t, cl, "central.p1", time.Now(), "v")
	check.Eventually(t, "the first centre", func() bool { return fakekafka.Count(t, before, "fleet.a") == 1 })
	check.Replace(t, file, before.ListenAddrs()[0], after.ListenAddrs()[0])
	check.Replace(t, file, "timeout: 2s}}", "timeout: 2s, tls: {ca: nowhere.pem}}}")
	if _, err := a.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "central.kafka.tls") {
		t.Errorf("reload with an authority that is not there: %v", err)
	}
	check.Replace(t, file, "tls: {ca: nowhere.pem}", "sasl: {mechanism: plain, user: cell, password: secret}")
	r, err := a.Reload(t.Context())
	check.OK(t, err)
	if len(r.Restart) > 0 || !strings.Contains(strings.Join(r.Applied, " "), "central.kafka.brokers") {
		t.Errorf("%+v", r)
	}
	put(t, cl, "central.p1", time.Now(), "v", "v")
	o := func() int64 { return after.PartitionInfo("fleet.a", 0).HighWatermark }
	check.Eventually(t, "the other centre", func() bool { return o() == 2 })
	if n := fakekafka.Count(t, before, "fleet.a"); n != 1 {
		t.Errorf("%d records at the first centre", n)
	}
}

// Two centres get everything, each at its own pace and from its own position.
func TestTwoCentres(t *testing.T) {
	t.Parallel()
	cell := fakekafka.Cluster(t, kfake.SeedTopics(1, append(kafkaclient.OutboxTopics(), topicCommands)...))
	cl := fakekafka.Client(t, cell)
	one, two := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a")), fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
	file := writeCentre(t, t.TempDir(), cell, one, "")
	check.Replace(t, file, "central: {", "central:\n  - {")
	text := check.Read(t, file)
	check.Write(t, file, string(text)+fmt.Sprintf("  - {name: spare, kafka: {brokers: [%q], timeout: 2s}}\n", two.ListenAddrs()[0]))
	a, _ := boot(t, file)
	if status := post(t, a, "/v1/sync/pause", `{"centre":"spare"}`); status != http.StatusOK {
		t.Fatalf("pause: %d", status)
	}
	put(t, cl, "central.p1", time.Now(), "a", "b")
	check.Eventually(t, "the first centre", func() bool { return fakekafka.Count(t, one, "fleet.a") == 2 })
	var s SyncAnswer
	check.Eventually(t, "the lag of the second", func() bool {
		get(t, a, "/v1/sync", operator(t, a), &s)
		return len(s.Lanes) == 6 && s.Lanes[1].Known && *s.Lanes[1].LagRecords == 0 && s.Lanes[4].Known && *s.Lanes[4].LagRecords == 2
	})
	if s.Lanes[4].Centre != "spare" || !s.Lanes[4].Paused || s.Lanes[1].Paused {
		t.Errorf("%+v", s)
	}
	if n := fakekafka.Count(t, two, "fleet.a"); n != 0 {
		t.Errorf("%d records at the centre that is paused", n)
	}
	if m := metrics(t, a); !strings.Contains(m, `cellgate_sync_lag_messages{cell="cell-1",centre="spare",lane="p1"} 2`+"\n") {
		t.Error("no metric of the second centre")
	}
	check.Eventually(t, "it goes on", func() bool {
		return post(t, a, "/v1/sync/resume", `{"centre":"spare","lane":"p1"}`) == http.StatusOK && fakekafka.Count(t, two, "fleet.a") == 2
	})
}

// The limits are those of the matching hours, also over midnight.
func TestLimitsByTheTimeOfTheDay(t *testing.T) {
	t.Parallel()
	c, err := configs.Parse("", []byte(`cell: {id: c, node: n}
central:
  kafka: {brokers: ["a:1"]}
  bandwidth: 1MiB/s
  lane_bandwidth: {p2: 100KiB/s}
  p2_percent: 25
  hours:
    - {from: "22:00", to: "06:00", bandwidth: 8MiB/s, lane_bandwidth: {p1: 4MiB/s}}
    - {from: "05:00", to: "07:30", bandwidth: 2MiB/s}
`))
	check.OK(t, err)
	limits := limitsTo(&c.Central[0])
	for at, want := range map[string]kafkaclient.FlowLimits{
		"21:59": {Rate: 1 << 20, Rates: [3]int64{0, 0, 100 << 10}, Share: 0.25}, "22:00": {Rate: 8 << 20, Rates: [3]int64{0, 4 << 20, 0}, Share: 0.25},
		"03:00": {Rate: 8 << 20, Rates: [3]int64{0, 4 << 20, 0}, Share: 0.25}, "06:00": {Rate: 2 << 20, Share: 0.25},
		"07:30": {Rate: 1 << 20, Rates: [3]int64{0, 0, 100 << 10}, Share: 0.25},
	} {
		now, err := time.ParseInLocation("15:04", at, time.Local)
		check.OK(t, err)
		if got := limits(now); got != want {
			t.Errorf("at %s: %+v, want %+v", at, got, want)
		}
	}
}

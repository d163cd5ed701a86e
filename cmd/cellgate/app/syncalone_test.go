package app

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/auth"
	"cellgate/broker/clock"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
)

// The sync worker runs without a gateway: it forwards, answers for that alone, takes over a changed centre, and keeps what
// operators have paused.
func TestTheSyncWorkerAlone(t *testing.T) {
	t.Parallel()
	cell := fakekafka.Cluster(t, kfake.SeedTopics(1, kafkaclient.OutboxTopics()...))
	cl := fakekafka.Client(t, cell)
	one, two := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a")), fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
	file := writeCentre(t, t.TempDir(), cell, one, "")
	run := func() (w *SyncWorker, end func()) {
		t.Helper()
		cfg, err := configs.Load(file)
		check.OK(t, err)
		w, err = NewSyncWorker(t.Context(), Options{Config: cfg, Log: &check.Log{}, Clock: clock.System()})
		check.OK(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx, 20*time.Second) }()
		select {
		case <-w.Serving():
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		}
		return w, func() {
			t.Helper()
			cancel()
			check.OK(t, <-ended)
		}
	}
	call := func(w *SyncWorker, method, path string) (int, string) {
		t.Helper()
		token, _, err := w.auth.Issue(auth.IssueRequest{Subject: "olga", Role: auth.RoleOperator, Scopes: auth.Scopes()})
		check.OK(t, err)
		status, _, body, err := harness.Call(t.Context(), method, w.httpURL()+path, token, nil)
		check.OK(t, err)
		return status, string(body)
	}
	w, end := run()
	put(t, cl, "central.p1", time.Now(), "v")
	check.Eventually(t, "the centre", func() bool { return fakekafka.Count(t, one, "fleet.a") == 1 })
	if status, body := call(w, http.MethodGet, "/readyz"); status != http.StatusOK || !strings.Contains(body, `"ready"`) {
		t.Errorf("/readyz %d %s", status, body)
	}
	if _, body := call(w, http.MethodGet, "/metrics"); !strings.Contains(body, `cellgate_sync_records_total{cell="cell-1",lane="p1",outcome="forwarded"} 1`) {
		t.Error("no metrics of what was forwarded")
	}
	if status, body := call(w, http.MethodPost, "/v1/sync/pause"); status != http.StatusOK {
		t.Errorf("pause: %d %s", status, body)
	}
	if status, _ := call(w, http.MethodGet, "/v1/vehicles"); status != http.StatusNotFound {
		t.Errorf("/v1/vehicles: %d", status)
	}
	end()
	w, end = run()
	defer end()
	check.Replace(t, file, one.ListenAddrs()[0], two.ListenAddrs()[0])
	_, err := w.Reload(t.Context())
	check.OK(t, err)
	put(t, cl, "central.p1", time.Now(), "v")
	if status, body := call(w, http.MethodPost, "/v1/sync/resume"); status != http.StatusOK || !strings.Contains(body, `"paused":false`) {
		t.Errorf("resume: %d %s", status, body)
	}
	check.Eventually(t, "the other centre", func() bool { return fakekafka.Count(t, two, "fleet.a") == 1 })
	if n := fakekafka.Count(t, one, "fleet.a"); n != 1 {
		t.Errorf("%d records at the first centre", n)
	}
}

// Without a centre there is nothing to do.
func TestTheSyncWorkerNeedsACentre(t *testing.T) {
	t.Parallel()
	cfg := configs.Default()
	if _, err := NewSyncWorker(t.Context(), Options{Config: cfg, Log: &check.Log{}, Clock: clock.System()}); !errors.Is(err, errNoCentre) {
		t.Errorf("error %v", err)
	}
}

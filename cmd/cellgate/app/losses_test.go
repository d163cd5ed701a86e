package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cellgate/auth"
	"cellgate/broker/clock"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// bootFolder starts a gateway on a data folder, without a repair.
func bootFolder(t *testing.T, home string) (*App, *check.Log) {
	t.Helper()
	cfg := smallSegments(t, filepath.Join(home, "cell.yaml"))
	return harness.Serve(t, func(ctx context.Context, log io.Writer) (*App, error) { return started(ctx, cfg, log, clock.System()) })
}

// kill ends a gateway and leaves its data folder as a kill would.
func (d *dataFolder) kill(t *testing.T, a *App, home string) {
	t.Helper()
	data, killed := filepath.Join(home, "state"), filepath.Join(t.TempDir(), "state")
	check.OK(t, a.db.Update(func(*statefile.Tx) error { d.copyTo(t, killed, data); return nil }))
	end(a)
	check.OK(t, os.RemoveAll(data))
	check.OK(t, os.Rename(killed, data))
}

// firstSegment returns the oldest segment of the journal in a home.
func firstSegment(t *testing.T, home string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(home, "state", "journal", "[0-9]*"))
	check.OK(t, err)
	if len(files) < 2 {
		t.Fatalf("%d segments", len(files))
	}
	return slices.Min(files)
}

// lostForKafka waits until each message for Kafka is pending or lost, and returns how many are lost.
func lostForKafka(t *testing.T, a *App) (lost uint64) {
	t.Helper()
	check.Within(t, check.Patience, "messages for Kafka are counted as lost", func() error {
		for _, l := range a.dispatch.Ledger() {
			if l.Sink != string(op.SinkKafka) {
				continue
			}
			lost = l.Dropped[sink.JournalLost]
			if lost == 0 || !l.Balanced || l.Pending+lost != l.Received {
				return fmt.Errorf("ledger %+v", l)
			}
		}
		return nil
	})
	return lost
}

// reportedLosses returns the line of /readyz about losses; the gateway serves.
func reportedLosses(t *testing.T, a *App) (remote.Health, bool) {
	t.Helper()
	var r readiness
	if code := get(t, a, "/readyz", "", &r); code != http.StatusOK {
		t.Fatalf("readyz %d: %+v", code, r)
	}
	i := slices.IndexFunc(r.Degraded, func(d remote.Health) bool { return d.Name == "losses" })
	if i < 0 {
		return remote.Health{}, false
	}
	return r.Degraded[i], true
}

// TestALossIsReportedUntilItIsAcknowledged removes the oldest segment of the journal: the gateway starts, says so once, and /readyz
// is degraded until an operator has acknowledged it, also after kills.
func TestALossIsReportedUntilItIsAcknowledged(t *testing.T) {
	t.Parallel()
	d := killedFolder(t)
	home := d.prepare(t)
	check.OK(t, os.Remove(firstSegment(t, home)))
	a, log := bootFolder(t, home)
	lost := lostForKafka(t, a)
	if n := strings.Count(log.String(), `"level":"ERROR"`); n > 12 { // the place, and some lines for three sinks, not one for each of fifty records
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, `"level":"ERROR"`) {
				t.Error(line)
			}
		}
	}
	reported, degraded := reportedLosses(t, a)
	for _, part := range []string{fmt.Sprintf("%d messages for kafka", lost), "records 2 to 51 are lost", "cellgate losses acknowledge"} {
		if !degraded || !strings.Contains(reported.Reason, part) {
			t.Errorf("no %q in %+v", part, reported)
		}
	}

	d.kill(t, a, home)
	a, _ = bootFolder(t, home)
	if again := lostForKafka(t, a); again != lost {
		t.Errorf("%d lost before the kill, %d after", lost, again)
	}
	if again, degraded := reportedLosses(t, a); !degraded || again.Reason != reported.Reason || !again.Since.Equal(reported.Since) {
		t.Errorf("reported %+v before the kill, %+v after", reported, again)
	}
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "alice", Role: auth.RoleOperator})
	check.OK(t, err)
	status, _, answer, err := harness.Call(t.Context(), http.MethodPost, a.HTTPURL()+"/v1/losses/acknowledge", token, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%d %s, %v", status, answer, err)
	}
	if reported, degraded := reportedLosses(t, a); degraded {
		t.Errorf("reported after it was acknowledged: %+v", reported)
	}
	d.kill(t, a, home)
	a, _ = bootFolder(t, home)
	if reported, degraded := reportedLosses(t, a); degraded {
		t.Errorf("reported after it was acknowledged, and a kill: %+v", reported)
	}
	var list LossAnswer
	get(t, a, "/v1/losses", token, &list)
	if len(list.Losses) != 1 || list.Losses[0].By != "operator alice" || len(list.Dropped) == 0 || list.Unacknowledged != 0 {
		t.Errorf("%+v", list)
	}
	d.kill(t, a, home)
	check.OK(t, os.RemoveAll(filepath.Join(home, "state", "journal")))
	a, _ = bootFolder(t, home)
	if reported, _ := reportedLosses(t, a); !strings.Contains(reported.Reason, "journal: it was missing") || strings.Contains(reported.Reason, "records ") {
		t.Errorf("the next loss, alone: %+v", reported)
	}
}

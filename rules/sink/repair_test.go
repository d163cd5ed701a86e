package sink_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
	"cellgate/rules/sink"
	"cellgate/test/check"
)

// TestRepairKeepsWhatCanBeRead damages a decision log within one of its segments and removes another segment: after a
// repair the decisions in all others are delivered, and the ledger counts the lost ones.
func TestRepairKeepsWhatCanBeRead(t *testing.T) {
	t.Parallel()
	const sent = 3000
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[0].Limits.Messages, o.CheckpointInterval, o.SegmentBytes = 16, 0, 2<<10
	})
	r.kafka.Hold(true)
	r.Publish(0, sent)
	r.Await(func() bool { return r.Ledger("kafka").Pending == sent })
	check.OK(t, r.Dispatcher.Checkpoint())
	epoch := r.Journal.Epoch()
	r.Kill()
	r.kafka.Forget()
	r.kafka.Hold(false)
	logs, err := filepath.Glob(filepath.Join(r.Dir(), "decisions", "kafka", "*.log"))
	if err != nil || len(logs) < 4 {
		t.Fatal(logs, err)
	}
	data := check.Read(t, logs[1])
	data[len(data)/2] ^= 1
	if err := os.WriteFile(logs[1], data, 0o600); err != nil { //nolint:gosec // a test's
		t.Fatal(err)
	}
	check.OK(t, os.Remove(logs[2]))
	lost := repairLog(t, r.Dir(), "kafka", epoch)
	if lost == 0 || lost > sent/2 {
		t.Fatalf("%d of %d lost", lost, sent)
	}
	r.Open()
	r.Settled()
	if l := r.Ledger("kafka"); l.Received != sent || l.Dropped[sink.DecisionsLost] != lost || l.Delivered != sent-lost {
		t.Fatalf("%d lost, ledger %+v", lost, l)
	}
	r.Stop()
}

// repairLog repairs what CheckLogs finds, twice, as after an interruption, and returns the number of lost decisions.
func repairLog(t *testing.T, dir, log string, epoch uint64) (lost uint64) {
	t.Helper()
	db, err := statefile.Open(filepath.Join(dir, "state.db"), statefile.Options{Sync: statefile.SyncNever})
	check.OK(t, err)
	defer db.Close() //nolint:errcheck // a test
	decisions := filepath.Join(dir, "decisions")
	found, err := sink.CheckLogs(db, decisions, epoch)
	if err != nil || len(found) != 1 || found[0].Sink != log || found[0].Err == nil {
		t.Fatalf("%+v, %v", found, err)
	}
	lost, err = sink.RepairLog(db, decisions, filepath.Join(dir, "kept", log), log, epoch)
	if err != nil || lost != found[0].Lost {
		t.Fatalf("%d lost, found were %d: %v", lost, found[0].Lost, err)
	}
	if again, err := sink.RepairLog(db, decisions, filepath.Join(dir, "kept-2", log), log, epoch); err != nil || again != 0 {
		t.Fatalf("the second repair loses %d: %v", again, err)
	}
	if found, err := sink.CheckLogs(db, decisions, epoch); err != nil || len(found) > 0 {
		t.Fatalf("still there: %+v, %v", found, err)
	}
	return lost
}

// TestDeletedDecisionLogStopsCheckpoints deletes the decision logs of a running gateway: a new checkpoint would name
// what no start finds. The previous one stays, and with it everything that the journal must keep.
func TestDeletedDecisionLogStopsCheckpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) { o.Sinks[0].Limits.Messages, o.CheckpointInterval = 16, 0 })
	r.Settled()
	check.OK(t, r.Dispatcher.Checkpoint())
	r.kafka.Hold(true)
	decisions := filepath.Join(r.Dir(), "decisions")
	check.OK(t, os.Rename(decisions, decisions+".old"))
	r.Publish(0, 500)
	r.Await(func() bool { l := r.Ledger("kafka"); return l.Pending == 500 && l.Unevaluated == 0 })
	for range 2 {
		if err := r.Dispatcher.Checkpoint(); !errors.Is(err, wal.ErrDamaged) {
			t.Fatal(err)
		}
	}
	r.Kill()
	r.kafka.Forget()
	r.kafka.Hold(false)
	r.Open() // nothing was pending at the last checkpoint
	r.Settled()
	complete(t, r, 500)
	r.Stop()
}

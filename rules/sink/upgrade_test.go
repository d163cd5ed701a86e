package sink_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// unpack extracts the files of an earlier version into dir.
func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	check.OK(t, err)
	defer f.Close() //nolint:errcheck // only read
	z, err := gzip.NewReader(f)
	check.OK(t, err)
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		check.OK(t, err)
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(name, 0o750)
		} else if data, rerr := io.ReadAll(files); rerr == nil {
			err = os.WriteFile(name, data, 0o600)
		}
		check.OK(t, err)
	}
}

// TestUpgradeFromTheLogsOfBefore continues from a killed gateway with logs of an earlier format: 400 messages, of which
// 16 per sink were in flight and 6 parked, the rest in decision logs, and thresholds that had fired. It is killed again
// halfway, so that both formats occur.
func TestUpgradeFromTheLogsOfBefore(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *sink.Options) {
		o.Sinks[0].Limits.Messages, o.Sinks[1].Limits.Messages, o.CheckpointInterval, o.SegmentBytes = 16, 16, 0, 2<<10
	})
	r.Kill()
	check.OK(t, os.RemoveAll(r.Dir()))
	unpack(t, filepath.Join("testdata", "upgrade", "cgdecs3.tgz"), r.Dir())
	r.kafka.Hold(true)
	r.redis.Hold(true)
	r.Open()
	if k, d := r.Ledger("kafka"), r.Ledger("redis"); k.Received != 400 || k.Pending != 358 || d.Pending != 118 {
		t.Fatalf("%+v %+v", k, d)
	}
	if p := r.Dispatcher.Parked(); len(p) != 1 || p[0].Messages != 6 {
		t.Fatalf("parked: %+v", p)
	}
	r.Publish(400, 100)
	r.Await(func() bool { return r.Ledger("kafka").Pending > 440 })
	check.OK(t, r.Dispatcher.Checkpoint())
	r.Kill()
	r.kafka.Forget()
	r.redis.Forget()
	r.kafka.Hold(false)
	r.redis.Hold(false)
	r.Open()
	r.Settled()
	entries := []entry{{isRules: true}}
	for n := range 500 {
		entries = append(entries, entry{n: n})
	}
	for i, a := range accounts(entries) {
		taken := []*sinktest.Memory{r.kafka, r.redis}[i].Taken()
		came := map[want]bool{}
		for j := range taken {
			came[wantOf(&taken[j])] = true
		}
		missing := slices.DeleteFunc(a.all, func(w want) bool { return came[w] || w.seq <= 60 }) // earlier ones were delivered then
		if len(missing) > 0 {
			t.Errorf("%d messages are missing, the first %+v of %d that came", len(missing), missing[0], len(taken))
		}
	}
	k, d := r.Ledger("kafka"), r.Ledger("redis")
	if k.Received != 500 || k.Delivered != 500 || d.Delivered+d.Filtered != 500 || len(k.Dropped)+len(d.Dropped) > 0 {
		t.Fatalf("%+v %+v", k, d)
	}
	for _, m := range r.kafka.Taken() {
		if m.Topic == "low" && m.Seq > 401 && !slices.Contains(accounts(entries)[0].all, wantOf(&m)) {
			t.Errorf("a threshold that had fired has fired again: %+v", m)
		}
	}
	r.Stop()
}

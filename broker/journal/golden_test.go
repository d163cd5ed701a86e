package journal

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/clock/clocktest"
	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// updateEnv rewrites the golden files of the present version. Those of older versions are never rewritten: every later
// version must read them.
const updateEnv = "UPDATE_GOLDEN"

// goldenRandom makes epochs and salts repeatable.
type goldenRandom struct{ n byte }

func (r *goldenRandom) Read(b []byte) (int, error) {
	for i := range b {
		r.n++
		b[i] = r.n
	}
	return len(b), nil
}

// golden is a journal as stored on disk.
type golden struct {
	dir     string             // below testdata/golden, by the version of the format
	batches [][]message.Record // a batch each
	steps   []time.Duration    // of the clock, before each batch
	files   int
}

// goldens are the journals that the present version writes. A clock that steps adds records, and batches, of its own.
func goldens() []golden {
	return []golden{
		{dir: fmt.Sprint("v", wal.FormatVersion), batches: goldenRecords(), steps: make([]time.Duration, 4), files: 2},
		{dir: fmt.Sprint("v", wal.FormatVersion, "-steps"), batches: goldenRecords()[:3], steps: []time.Duration{0, 10 * 365 * 24 * time.Hour, -time.Hour}, files: 1},
	}
}

// goldenRecords returns the records of the golden journal, by batch.
func goldenRecords() [][]message.Record {
	return [][]message.Record{
		{{Kind: message.KindPublish, QoS: 1, PacketID: 1, Client: "LSVAB2180E2100123", Topic: "v1/LSVAB2180E2100123/up/telemetry", Payload: []byte(`{"soc":71}`)}},
		{
			{Kind: message.KindPublish, QoS: 2, PacketID: 65535, Retain: true, Dup: true, Client: "c", Topic: "v1/LSVAB2180E2100123/res/1/accepted", Props: message.Properties{
				ContentType: "application/json", ResponseTopic: "r", Correlation: []byte{0, 255}, User: []message.UserProperty{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}},
				Expiry: 60, HasExpiry: true, UTF8Payload: true,
			}, Payload: []byte("ok")},
			{Kind: message.KindRelease, Client: "c", PacketID: 65535},
			{Kind: message.KindSessionReset, Client: "c"},
		},
		{{Kind: message.KindRuleSet, Payload: []byte("0123456789abcdef")}},
		{{Kind: message.KindPublish, Client: "svc", Topic: "other/topic", Payload: bytes.Repeat([]byte{7}, 3900)}},
	}
}

// writeGolden makes the golden journal: two segments, the older one closed by the newer one's header, batches of one
// and several records, an empty batch at the end.
func writeGolden(t *testing.T, g *golden) image {
	t.Helper()
	machine := clocktest.Still(time.UnixMilli(1_760_000_000_000))
	m := waltest.New()
	o := Options{
		Dir: imageDir, SegmentBytes: wal.MinSegmentBytes, MaxBytes: 8 * wal.MinSegmentBytes,
		Machine: Machine{FS: m, Clock: machine.Source(), Random: &goldenRandom{}},
	}
	j, _ := open(t, o)
	for i, recs := range g.batches {
		machine.Pass(1500 * time.Millisecond)
		machine.Step(g.steps[i])
		last, err := j.Append(recs, nil)
		check.OK(t, err)
		waitDurable(t, j, last)
	}
	closeJournal(t, j)
	img := imageOf(m)
	maps.DeleteFunc(img, func(name string, _ []byte) bool {
		return name == lockName || strings.HasPrefix(name, sparePrefix)
	})
	return img
}

// TestGoldenFiles reads the journals written by every version of the format, and compares the output of the present one
// byte by byte.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	for _, g := range goldens() {
		compareGolden(t, &g)
		readGolden(t, &g)
	}
}

func compareGolden(t *testing.T, g *golden) {
	t.Helper()
	dir := filepath.Join("testdata", "golden", g.dir)
	img := writeGolden(t, g)
	if len(img) != g.files {
		t.Fatalf("%s: %d segments", g.dir, len(img))
	}
	if os.Getenv(updateEnv) != "" {
		for name, b := range img {
			check.OK(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		}
	}
	for name, b := range img {
		want := check.Read(t, filepath.Join(dir, name))
		if !bytes.Equal(b, want) {
			t.Errorf("%s: what is written differs from the golden file of %s: a new format needs a new version", name, g.dir)
		}
	}
}

func readGolden(t *testing.T, g *golden) {
	t.Helper()
	dir := filepath.Join("testdata", "golden", g.dir)
	files, err := os.ReadDir(dir)
	check.OK(t, err)
	img := image{}
	for _, f := range files {
		if img[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Dir: imageDir, Machine: Machine{FS: img.fs()}, SegmentBytes: wal.MinSegmentBytes, MaxBytes: 8 * wal.MinSegmentBytes}
	j, rec := open(t, o)
	if len(rec.Corruptions) > 0 || rec.TornBytes > 0 {
		t.Fatalf("%s: %+v", dir, rec)
	}
	r, err := j.NewReader(0)
	check.OK(t, err)
	defer func() { _ = r.Close() }()
	seq, at := uint64(0), int64(1_760_000_000_000)
	for i, want := range g.batches {
		b, err := r.Next(context.Background(), 0)
		at += 1500
		if step := g.steps[i].Milliseconds(); step != 0 {
			want = append([]message.Record{message.ClockStep{From: at, To: at + step}.Record()}, want...)
			at += step
		}
		if err != nil || len(b.Records) != len(want) {
			t.Fatalf("%s: batch %d: %v %+v", dir, i, err, b)
		}
		for k := range want {
			seq++
			want[k].Seq, want[k].ReceivedAt = seq, at
			if got := b.Records[k].Clone(); fmt.Sprint(got) != fmt.Sprint(want[k]) {
				t.Errorf("%s: record %d: %+v, want %+v", dir, seq, got, want[k])
			}
		}
	}
	if rec.Last != seq {
		t.Errorf("%s: recovered up to %d, want %d", dir, rec.Last, seq)
	}
}

func TestLaterVersionIsRefused(t *testing.T) {
	t.Parallel()
	img, _, _ := makeImage(t)
	name := img.segments()[1]
	for page := 0; page < wal.SegmentStart; page += wal.PageLen {
		h := img[name][page:]
		h[8] = wal.FormatVersion + 1
		putCRC(h)
	}
	m := img.fs()
	if _, _, err := Open(imageOptions(m)); err == nil || !strings.Contains(err.Error(), wal.ErrVersion.Error()) {
		t.Fatalf("opened: %v", err)
	}
	if after := imageOf(m); !maps.EqualFunc(after, img, bytes.Equal) {
		t.Fatalf("files were touched: %v of %v", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(img)))
	}
}

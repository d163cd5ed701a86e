package journal

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/message"
)

// updateEnv rewrites the golden files of the present version. Those of older versions are never
// rewritten: every later program must read them.
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

// goldenRecords are the records of the golden journal, by batch.
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

// writeGolden makes the golden journal: two segments, the older one closed by the newer one's header,
// batches of one and several records, an empty batch at the end.
func writeGolden(t *testing.T) image {
	t.Helper()
	now := time.UnixMilli(1_760_000_000_000)
	m := newMemFS()
	o := Options{
		Dir: imageDir, FS: m, SegmentBytes: minSegmentBytes, MaxBytes: 8 * minSegmentBytes, ReserveBytes: -1,
		Now: func() time.Time { return now }, random: &goldenRandom{},
	}
	j, _ := open(t, o)
	for _, recs := range goldenRecords() {
		now = now.Add(1500 * time.Millisecond)
		last, err := j.Append(recs, nil)
		if err != nil {
			t.Fatal(err)
		}
		waitDurable(t, j, last)
	}
	closeJournal(t, j)
	img := imageOf(t, m)
	maps.DeleteFunc(img, func(name string, _ []byte) bool {
		return name == lockName || strings.HasPrefix(name, sparePrefix)
	})
	return img
}

// TestGoldenFiles reads the journals that every version of the format has written, and compares what the
// present one writes byte by byte.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("testdata", "golden", fmt.Sprint("v", formatVersion))
	img := writeGolden(t)
	if len(img) != 2 {
		t.Fatalf("%d segments", len(img))
	}
	if os.Getenv(updateEnv) != "" {
		for name, b := range img {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, b := range img {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s: what is written differs from the golden file of version %d: a new format needs a new version", name, formatVersion)
		}
	}
	versions, err := filepath.Glob(filepath.Join("testdata", "golden", "v*"))
	if err != nil || len(versions) == 0 {
		t.Fatal(err, versions)
	}
	for _, v := range versions {
		readGolden(t, v)
	}
}

func readGolden(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	img := image{}
	for _, f := range files {
		if img[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Dir: imageDir, FS: img.fs(t), SegmentBytes: minSegmentBytes, MaxBytes: 8 * minSegmentBytes, ReserveBytes: -1}
	j, rec := open(t, o)
	if len(rec.Corruptions) > 0 || rec.TornBytes > 0 {
		t.Fatalf("%s: %+v", dir, rec)
	}
	r, err := j.NewReader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	seq := uint64(0)
	for i, want := range goldenRecords() {
		b, err := r.Next(context.Background(), 0)
		if err != nil || len(b.Records) != len(want) {
			t.Fatalf("%s: batch %d: %v %+v", dir, i, err, b)
		}
		for k := range want {
			seq++
			want[k].Seq, want[k].ReceivedAt = seq, 1_760_000_000_000+1500*int64(i+1)
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
	for page := 0; page < segmentStart; page += pageLen {
		h := img[name][page:]
		h[8] = formatVersion + 1
		putCRC(h)
	}
	m := img.fs(t)
	before, err := m.List(imageDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(imageOptions(m)); err == nil || !strings.Contains(err.Error(), ErrVersion.Error()) {
		t.Fatalf("opened: %v", err)
	}
	after, err := m.List(imageDir)
	slices.Sort(before)
	slices.Sort(after)
	if err != nil || !slices.Equal(before, after) {
		t.Fatalf("files were touched: %v, %v", before, after)
	}
	for _, name := range after {
		if b, err := m.mem.UnsafeGetFileDataBuffer(path.Join(imageDir, name)); err != nil || !bytes.Equal(b, img[name]) {
			t.Fatalf("%s was touched", name)
		}
	}
}

package statefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"cellgate/test/check"
)

// content is everything in a file: values by path and key, sequences by path.
type content map[string]string

func dump(t *testing.T, db *DB) content {
	t.Helper()
	all := content{}
	var walk func(b *Bucket) error
	walk = func(b *Bucket) error {
		all[b.path+"\x00sequence"] = fmt.Sprint(b.bolt.Sequence(), b.Keys())
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return walk(b.Bucket(k))
			}
			if got := b.Get(k); !bytes.Equal(got, v) {
				t.Errorf("Get(%x) differs from the cursor", k)
			}
			all[b.path+"\x00="+string(k)] = string(v)
			return nil
		})
	}
	err := db.View(func(tx *Tx) error {
		return tx.bolt.ForEach(func(name []byte, _ *boltBucket) error {
			if string(name) == reservedName {
				return nil
			}
			return walk(tx.Bucket(name))
		})
	})
	check.OK(t, err)
	return all
}

func (c content) equal(o content) bool {
	if len(c) != len(o) {
		return false
	}
	for k, v := range c {
		if w, ok := o[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// fill writes a file as the gateway does: nested buckets, many small keys, values over several pages, sequences, empty
// values, deletions that leave free and merged pages, inline buckets.
func fill(t testing.TB, db *DB, keys, rounds int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's
	for round := range rounds {
		err := db.Update(func(tx *Tx) error {
			for _, path := range [][]string{
				{"mqtt", "sessions"},
				{"mqtt", "queue"},
				{"mqtt", "retained"},
				{"commands", "meta"},
				{"commands", "open"},
				{"command-events"},
				{"dispatch", "state"},
				{"dispatch", "sources"},
				{"rules"},
			} {
				if err := fillBucket(tx, path, r, keys, round); err != nil {
					return err
				}
			}
			d, err := tx.CreateBucketIfNotExists([]byte("dispatch"))
			if err != nil {
				return err
			}
			return d.Put([]byte("evaluated"), binary.BigEndian.AppendUint64(nil, uint64(round)))
		})
		check.OK(t, err)
	}
}

func fillBucket(tx *Tx, path []string, r *rand.Rand, keys, round int) error {
	b, err := tx.CreateBucketIfNotExists([]byte(path[0]))
	for _, name := range path[1:] {
		if err == nil {
			b, err = b.CreateBucketIfNotExists([]byte(name))
		}
	}
	if err != nil {
		return err
	}
	if path[0] == "rules" {
		keys = 3
	}
	for range keys {
		key := []byte("LTEST" + strconv.Itoa(r.IntN(4*keys)))
		switch size := r.IntN(20); {
		case size < 6 || round%3 == 2 && size < 15:
			err = b.Delete(key)
		case path[len(path)-1] == "open":
			err = b.Put(key, []byte{})
		case path[0] == "rules":
			err = b.Put(key, random(r, r.IntN(60)))
		case size == 19:
			err = b.Put(key, random(r, 3*pageSize+r.IntN(9000)))
		default:
			err = b.Put(key, random(r, r.IntN(400)))
		}
		if err == nil && r.IntN(10) == 0 {
			_, err = b.NextSequence()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.NativeEndian.AppendUint64(b, r.Uint64())
	}
	return b[:n]
}

// sample returns a file as after a kill, and its content.
func sample(t *testing.T, keys, rounds int) (data []byte, want holds) {
	t.Helper()
	dir := t.TempDir()
	db := open(t, filepath.Join(dir, "state.db"))
	fill(t, db, keys, rounds)
	data = check.Read(t, filepath.Join(dir, "state.db"))
	m, _, err := readMeta(data)
	check.OK(t, err)
	data = data[:(m.pages+2)*pageSize] // without most of what bbolt has preallocated
	want.now = dump(t, db)
	want.then = further(t, db)
	return data, want
}

func open(t *testing.T, file string) *DB {
	t.Helper()
	db, err := Open(file, Options{Sync: SyncNever})
	check.OK(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// holds is the content of a sound file, before and after further transactions.
type holds struct{ now, then content }

// further changes the content of all buckets.
func further(t *testing.T, db *DB) content {
	t.Helper()
	fill(t, db, 20, 2)
	err := db.Update(func(tx *Tx) error {
		return tx.Bucket([]byte("rules")).Put([]byte("large"), bytes.Repeat([]byte("outgrow"), 300))
	})
	check.OK(t, err)
	return dump(t, db)
}

// outcome opens a damaged copy. It must be refused, or equal the sound file, also after further writes.
func outcome(t *testing.T, file string, data []byte, want holds) (refused error) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil { //nolint:gosec // a test's
		t.Fatal(err)
	}
	db, err := Open(file, Options{Sync: SyncNever})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Errorf("neither damaged nor unknown: %v", err)
		}
		return err
	}
	if db.FellBack() {
		t.Error("fell back")
	}
	if !dump(t, db).equal(want.now) {
		t.Error("other content, and nothing said")
	}
	if !further(t, db).equal(want.then) {
		t.Error("other content after further transactions")
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	verified(t, file)
	return nil
}

// region names the region of a byte of the file.
func region(at int, live map[int]uint16, inline map[int]bool) string {
	flags, used := live[at/pageSize]
	switch {
	case inline[at]:
		return "inline bucket"
	case at < 2*pageSize && at%pageSize >= pageHeader && at%pageSize < pageHeader+metaSize:
		return "meta"
	case at < 2*pageSize:
		return "meta padding"
	case !used:
		return "free"
	case flags == flagLeaf && at%pageSize < pageHeader:
		return "leaf header"
	case flags == flagLeaf:
		return "leaf"
	case flags == flagBranch && at%pageSize < pageHeader:
		return "branch header"
	case flags == flagBranch:
		return "branch"
	}
	return "overflow"
}

// pagesInUse returns the live pages, with the flags of those that have a header.
func pagesInUse(t *testing.T, data []byte) map[int]uint16 {
	t.Helper()
	m, _, err := readMeta(data)
	check.OK(t, err)
	s := newScan(data, m)
	check.OK(t, s.outermost(m.root))
	live := map[int]uint16{}
	for id := firstPage; id < int(m.pages); id++ {
		if s.seen[id/64]&(1<<(id%64)) != 0 {
			live[id] = 0
		}
	}
	for id := range live {
		if _, head := live[id]; head && binary.NativeEndian.Uint64(data[id*pageSize:]) == uint64(id) {
			live[id] = binary.NativeEndian.Uint16(data[id*pageSize+8:])
		}
	}
	return live
}

// inlineHeaders returns the bytes of the headers of inline buckets.
func inlineHeaders(data []byte, live map[int]uint16) map[int]bool {
	found := map[int]bool{}
	ne := binary.NativeEndian
	for id, flags := range live {
		for i := range int(ne.Uint16(data[id*pageSize+10:])) {
			at := id*pageSize + pageHeader + i*elementSize
			if flags != flagLeaf || ne.Uint32(data[at:]) != leafBucketFlag {
				continue
			}
			value := at + int(ne.Uint32(data[at+4:])+ne.Uint32(data[at+8:]))
			for k := 0; k < bucketHeader+pageHeader && ne.Uint64(data[value:]) == 0; k++ {
				found[value+k] = true
			}
		}
	}
	return found
}

// full reports whether to damage the whole file, with CELLGATE_STATE_FLIPS=all, instead of a sample.
func full() bool { return os.Getenv("CELLGATE_STATE_FLIPS") == "all" }

// TestBitFlips flips single bits in every region of the file: each is refused, or changes nothing that is read. With
// CELLGATE_STATE_FLIPS=all it covers every seventh byte of all pages in use.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	data, want := sample(t, 40, 8)
	live := pagesInUse(t, data)
	inline := inlineHeaders(data, live)
	places := map[string][]int{}
	for at := range data {
		if r := region(at, live, inline); !full() || at%7 == 0 || r != "leaf" && r != "overflow" && r != "free" {
			places[r] = append(places[r], at)
		}
	}
	for _, needed := range []string{"meta", "meta padding", "free", "leaf header", "leaf", "inline bucket", "branch header", "branch", "overflow"} {
		if len(places[needed]) == 0 {
			t.Errorf("the sample has no region %q", needed)
		}
	}
	file := filepath.Join(t.TempDir(), "state.db")
	for name, at := range places {
		r := rand.New(rand.NewPCG(7, uint64(len(name)))) //nolint:gosec // a test's
		if n := flips(name); len(at) > n {
			r.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
			at = at[:n]
		}
		refused := 0
		for _, i := range at {
			bit := byte(1) << r.IntN(8)
			data[i] ^= bit
			err := outcome(t, file, data, want)
			data[i] ^= bit
			if err != nil {
				refused++
			}
			if t.Failed() {
				t.Fatalf("%s: byte %d of page %d, bit %#x", name, i%pageSize, i/pageSize, bit)
			}
		}
		t.Logf("%s: %d flips, %d refused, %d without effect", name, len(at), refused, len(at)-refused)
		switch {
		case (name == "free" || name == "meta padding") && refused > 0:
			t.Errorf("%s: refused although nothing reads it", name)
		case name == "meta" && refused < len(at):
			t.Errorf("%s: not refused", name)
		}
	}
}

// flips returns how many bits of a region a test flips.
func flips(region string) int {
	unused := region == "free" || region == "meta padding"
	switch {
	case full() && unused:
		return 2_000
	case full():
		return math.MaxInt
	case unused:
		return 20
	}
	return 200
}

// TestTruncations truncates the file at every page and in between.
func TestTruncations(t *testing.T) {
	t.Parallel()
	data, want := sample(t, 20, 4)
	m, _, err := readMeta(data)
	check.OK(t, err)
	file := filepath.Join(t.TempDir(), "state.db")
	inUse := int(m.pages) * pageSize
	for page := 0; page*pageSize <= len(data); page++ {
		if page > int(m.pages)+5 && page%16 != 0 {
			continue
		}
		for _, at := range []int{page * pageSize, page*pageSize + 100, (page+1)*pageSize - 1} {
			if at > len(data) {
				continue
			}
			if err := outcome(t, file, data[:at], want); (err == nil) != (at >= inUse) {
				t.Errorf("cut at %d, in use %d: %v", at, inUse, err)
			}
			if t.Failed() {
				t.Fatalf("cut at %d of %d", at, len(data))
			}
		}
	}
}

// TestGarbage overwrites whole pages and parts with noise, zeros and other pages of the file.
func TestGarbage(t *testing.T) {
	t.Parallel()
	data, want := sample(t, 40, 6)
	file := filepath.Join(t.TempDir(), "state.db")
	r := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a test's
	live := pagesInUse(t, data)
	tries := 100
	if full() {
		tries = 20_000
	}
	for range tries {
		damaged := bytes.Clone(data)
		from := (2 + r.IntN(len(live)-2)) * pageSize
		size := []int{16, 512, pageSize, 2 * pageSize}[r.IntN(4)]
		if from += r.IntN(2) * 512 * r.IntN(8); from+size > len(data) {
			continue
		}
		switch at := r.IntN(len(data) - size); r.IntN(3) {
		case 0:
			copy(damaged[from:], random(r, size))
		case 1:
			clear(damaged[from : from+size])
		default:
			at -= at % pageSize
			copy(damaged[from:from+size], data[at:at+size])
			if r.IntN(2) == 0 && from%pageSize == 0 { // a page of an earlier transaction with the expected number
				binary.NativeEndian.PutUint64(damaged[from:], uint64(from/pageSize)) //nolint:gosec // small
			}
		}
		_ = outcome(t, file, damaged, want)
		if t.Failed() {
			t.Fatalf("%d bytes at %d of page %d", size, from%pageSize, from/pageSize)
		}
	}
}

// TestDigests changes a bucket with bbolt in ways that bbolt and the values' checksums accept.
func TestDigests(t *testing.T) {
	t.Parallel()
	queue := func(tx *Tx) *boltBucket { return tx.bolt.Bucket([]byte("mqtt")).Bucket([]byte("queue")) }
	first := func(tx *Tx) (k, v []byte) { k, v = queue(tx).Cursor().First(); return bytes.Clone(k), bytes.Clone(v) }
	for name, change := range map[string]func(tx *Tx) error{
		"vanished": func(tx *Tx) error { k, _ := first(tx); return queue(tx).Delete(k) },
		"added": func(tx *Tx) error {
			b := tx.Bucket([]byte("mqtt")).Bucket([]byte("queue"))
			return queue(tx).Put([]byte("new"), seal(b.seed, []byte("new"), []byte("v")))
		},
		"old": func(tx *Tx) error {
			k, _ := first(tx)
			b := tx.Bucket([]byte("mqtt")).Bucket([]byte("queue"))
			return queue(tx).Put(k, seal(b.seed, k, []byte("what it was before")))
		},
		"moved": func(tx *Tx) error { _, v := first(tx); return queue(tx).Put([]byte("new"), v) },
		"other bucket": func(tx *Tx) error {
			k, v := first(tx)
			return tx.bolt.Bucket([]byte("mqtt")).Bucket([]byte("sessions")).Put(k, v)
		},
		"sequence": func(tx *Tx) error { return queue(tx).SetSequence(queue(tx).Sequence() - 1) },
		"bucket":   func(tx *Tx) error { return tx.bolt.Bucket([]byte("mqtt")).DeleteBucket([]byte("queue")) },
		"new bucket": func(tx *Tx) error {
			_, err := tx.bolt.Bucket([]byte("mqtt")).CreateBucket([]byte("other"))
			return err
		},
		"digest": func(tx *Tx) error {
			return tx.bolt.Bucket([]byte(reservedName)).Delete([]byte(appendPath(appendPath("", []byte("mqtt")), []byte("queue"))))
		},
		"checksums": func(tx *Tx) error { return tx.bolt.DeleteBucket([]byte(reservedName)) },
		"format":    func(tx *Tx) error { return tx.bolt.Bucket([]byte(reservedName)).Delete(formatKey()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "state.db")
			db := open(t, file)
			fill(t, db, 20, 3)
			check.OK(t, db.Update(change))
			check.OK(t, db.Close())
			_, err := Open(file, Options{Sync: SyncNever})
			if !errors.Is(err, ErrDamaged) && (name != "checksums" || !errors.Is(err, ErrFormat)) {
				t.Errorf("error %v", err)
			}
			t.Log(err)
		})
	}
}

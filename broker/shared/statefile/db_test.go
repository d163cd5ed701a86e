package statefile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"cellgate/test/check"
)

type boltBucket = bbolt.Bucket

// TestEveryCommitVerifies checks the strictness of the scan against bbolt: the file of every commit of a random mix of
// puts and deletes is accepted, and equals a map.
func TestEveryCommitVerifies(t *testing.T) {
	t.Parallel()
	steps := 150
	if full() {
		steps = 5_000
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's
			file := filepath.Join(t.TempDir(), "state.db")
			db := open(t, file)
			model := map[string]string{}
			for step := range steps {
				mixed(t, db, r, model)
				verified(t, file)
				if step%40 == 39 {
					check.OK(t, db.Close())
					db = open(t, file)
				}
			}
			hasAll(t, db, model)
		})
	}
}

// mixed runs one transaction, which may be undone: mostly deletes for a while, then mostly puts.
func mixed(t *testing.T, db *DB, r *rand.Rand, model map[string]string) {
	t.Helper()
	undone := errors.New("undone")
	undo, deletes := r.IntN(6) == 0, r.IntN(10)
	changes := map[string]*string{}
	err := db.Update(func(tx *Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("a"))
		if err == nil {
			b, err = b.CreateBucketIfNotExists([]byte("b"))
		}
		for range r.IntN(120) {
			if err != nil {
				return err
			}
			key := strings.Repeat(fmt.Sprintf("%04d", r.IntN(900)), 1+r.IntN(2)*40)
			if r.IntN(10) < deletes {
				changes[key] = nil
				err = b.Delete([]byte(key))
				continue
			}
			value, has := model[key]
			if !has || r.IntN(4) != 0 {
				value = string(random(r, r.IntN(300)*(1+r.IntN(20)/19*40)))
			}
			changes[key] = &value
			err = b.Put([]byte(key), []byte(value))
		}
		if err == nil && undo {
			err = undone
		}
		return err
	})
	if undo != errors.Is(err, undone) || (!undo && err != nil) {
		t.Fatal(err)
	}
	for k, v := range changes {
		switch {
		case undo:
		case v == nil:
			delete(model, k)
		default:
			model[k] = *v
		}
	}
}

func verified(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file) //nolint:gosec // a test's
	check.OK(t, err)
	defer f.Close() //nolint:errcheck // only read
	if fellBack, err := verify(f, file); err != nil || fellBack {
		t.Fatalf("fell back %v: %v", fellBack, err)
	}
}

func hasAll(t *testing.T, db *DB, model map[string]string) {
	t.Helper()
	err := db.View(func(tx *Tx) error {
		b := tx.Bucket([]byte("a")).Bucket([]byte("b"))
		if b.Keys() != len(model) {
			t.Errorf("%d keys, want %d", b.Keys(), len(model))
		}
		for k, v := range model {
			if got := b.Get([]byte(k)); got == nil || string(got) != v {
				t.Errorf("key %s: %d bytes, want %d", k, len(got), len(v))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	err := db.Update(func(tx *Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		for _, k := range []string{"a", "b", "c"} {
			err = errors.Join(err, b.Put([]byte(k), []byte("v"+k)))
		}
		_, cerr := b.CreateBucketIfNotExists([]byte("bb"))
		c := b.Cursor()
		var seen []string
		note := func(k, v []byte) []byte { seen = append(seen, fmt.Sprintf("%s=%s", k, v)); return k }
		note(c.First())
		note(c.Next())
		note(c.Next())
		note(c.Last())
		note(c.Prev())
		note(c.Seek([]byte("b")))
		err = errors.Join(err, cerr, c.Delete())
		note(c.First())
		if k := note(c.Seek([]byte("d"))); k != nil {
			t.Errorf("key %q after the last", k)
		}
		if got, want := strings.Join(seen, " "), "a=va b=vb bb= c=vc bb= b=vb a=va ="; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if err := b.Put([]byte("bb"), nil); err == nil || b.Keys() != 2 {
			t.Errorf("a value over a bucket: error %v, %d keys", err, b.Keys())
		}
		if b.Get([]byte("b")) != nil || b.Bucket([]byte("x")) != nil || tx.Bucket([]byte(reservedName)) != nil {
			t.Error("there is what is not there")
		}
		return err
	})
	check.OK(t, err)
}

// TestDamageWhileOpen checks that a wrong value ends the transaction, without effect.
func TestDamageWhileOpen(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	fill(t, db, 10, 1)
	err := db.Update(func(tx *Tx) error {
		b := tx.Bucket([]byte("mqtt"))
		return errors.Join(b.Put([]byte("good"), []byte("1")), b.bolt.Put([]byte("bad"), []byte("no checksum")))
	})
	check.OK(t, err)
	bad := []byte("bad")
	for name, read := range map[string]func(b *Bucket) error{
		"get":    func(b *Bucket) error { b.Get(bad); return nil },
		"cursor": func(b *Bucket) error { b.Cursor().Seek(bad); return nil },
		"each":   func(b *Bucket) error { return b.ForEach(func([]byte, []byte) error { return nil }) },
		"put":    func(b *Bucket) error { return b.Put(bad, nil) },
		"delete": func(b *Bucket) error { return b.Delete(bad) },
	} {
		for how, run := range map[string]func(func(*Tx) error) error{"update": db.Update, "view": db.View} {
			passed := false
			err := run(func(tx *Tx) error {
				err := read(tx.Bucket([]byte("mqtt")))
				passed = true
				return err
			})
			if !errors.Is(err, ErrDamaged) || passed || !strings.Contains(err.Error(), "626164") || !strings.Contains(err.Error(), `"mqtt"`) {
				t.Errorf("%s in %s: %v; went on: %v", name, how, err, passed)
			}
		}
	}
	if err := db.View(func(tx *Tx) error { tx.Bucket([]byte("mqtt")).Get([]byte("good")); return nil }); err != nil {
		t.Errorf("what is sound is not read any more: %v", err)
	}
}

// TestPanics checks that a panic of bbolt becomes an error and ends the DB; a caller's stays a panic.
func TestPanics(t *testing.T) {
	t.Parallel()
	var fatal []error
	db, err := Open(filepath.Join(t.TempDir(), "state.db"), Options{Sync: SyncNever, OnFatal: func(err error) { fatal = append(fatal, err) }})
	check.OK(t, err)
	fill(t, db, 10, 1)
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = db.Update(func(*Tx) error { panic("mine") })
	}()
	var old *Bucket
	_ = db.View(func(tx *Tx) error { old = tx.Bucket([]byte("mqtt")); return nil })
	err = db.View(func(tx *Tx) error {
		(&Bucket{tx: tx, bolt: old.bolt}).Get([]byte("k")) // of an ended transaction: bbolt panics
		return nil
	})
	if !errors.Is(err, ErrDamaged) {
		t.Fatalf("error %v", err)
	}
	if again := db.Update(func(*Tx) error { t.Error("ran"); return nil }); !errors.Is(again, ErrDamaged) {
		t.Errorf("error %v", again)
	}
	if len(fatal) != 1 {
		t.Errorf("told of %v", fatal)
	}
	if err := db.bolt.Close(); err != nil {
		t.Error(err)
	}
}

// TestFault truncates the open file: reading beyond its end is an error and does not kill the process.
func TestFault(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.db")
	db := open(t, file)
	fill(t, db, 300, 2)
	check.OK(t, os.Truncate(file, 2*pageSize))
	err := db.View(func(tx *Tx) error {
		tx.Bucket([]byte("mqtt")).Bucket([]byte("queue")).Get([]byte("LTEST1"))
		return nil
	})
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
}

// TestCutWhileVerified truncates the file during the scan, at every page: an error that does not call the file damaged.
func TestCutWhileVerified(t *testing.T) {
	t.Parallel()
	data, _ := sample(t, 10, 3)
	m, _, err := readMeta(data)
	check.OK(t, err)
	file := filepath.Join(t.TempDir(), "state.db")
	for page := range int64(m.pages) { //nolint:gosec // a few
		check.OK(t, os.WriteFile(file, data, 0o600))
		f, err := os.OpenFile(file, os.O_RDWR, 0) //nolint:gosec // a test's
		check.OK(t, err)
		scanned := false
		err = mapped(f, func(data []byte) {
			if err := f.Truncate(page * pageSize); err != nil {
				t.Error(err)
			}
			_, err := scanFile(data)
			scanned = err == nil // the rest of the file is free pages
		})
		if !scanned && !errors.Is(err, errUnread) {
			t.Errorf("cut after %d pages of %d: %v", page, m.pages, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "old.db")
	b, err := bbolt.Open(old, 0o600, options(nil, Options{Sync: SyncNever}))
	check.OK(t, err)
	for range 2 {
		err = errors.Join(err, b.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucketIfNotExists([]byte("mqtt")); return err }))
	}
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(old, Options{Sync: SyncAlways}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), old) {
		t.Errorf("without checksums: %v", err)
	}
	for name, data := range map[string][]byte{"empty": {}, "text": bytes.Repeat([]byte("no state file "), 1000)} {
		file := filepath.Join(dir, name)
		check.OK(t, os.WriteFile(file, data, 0o600))
		if _, err := Open(file, Options{Sync: SyncAlways}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	db := open(t, filepath.Join(dir, "state.db"))
	if _, err := Open(db.Path(), Options{Sync: SyncAlways}); !errors.Is(err, ErrLocked) {
		t.Errorf("locked: %v", err)
	}
}

// TestFirstOpen checks that of many concurrent first opens one creates the file, the others find it locked, and no
// other file is left.
func TestFirstOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	opened := make(chan *DB, 8)
	for range cap(opened) {
		wg.Go(func() {
			db, err := Open(filepath.Join(dir, "state.db"), Options{Sync: SyncNever})
			if err == nil {
				opened <- db
			} else if !errors.Is(err, ErrLocked) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(opened) != 1 {
		t.Fatalf("%d have it", len(opened))
	}
	if err := (<-opened).Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v: %v", entries, err)
	}
}

// BenchmarkOpen opens a file of 50,000 values of 300 bytes: with the scan, and with bbolt alone.
func BenchmarkOpen(b *testing.B) {
	file := filepath.Join(b.TempDir(), "state.db")
	db, err := Open(file, Options{Sync: SyncNever})
	check.OK(b, err)
	err = db.Update(func(tx *Tx) error {
		q, err := tx.CreateBucketIfNotExists([]byte("queue"))
		for i := 0; err == nil && i < 50_000; i++ {
			err = q.Put([]byte(fmt.Sprintf("LTEST%08d", i)), make([]byte, 300))
		}
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		b.Fatal(err)
	}
	b.Run("scanned", func(b *testing.B) {
		for range b.N {
			db, err := Open(file, Options{Sync: SyncNever})
			check.OK(b, err)
			b.StopTimer()
			_ = db.Close()
			b.StartTimer()
		}
	})
	b.Run("bbolt", func(b *testing.B) {
		for range b.N {
			db, err := bbolt.Open(file, 0o600, options(nil, Options{Sync: SyncNever}))
			check.OK(b, err)
			b.StopTimer()
			_ = db.Close()
			b.StartTimer()
		}
	})
}

// TestSameValue: a value that is there already is not written again.
func TestSameValue(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	pages := func() int64 { st := db.Stats(); return st.TxStats.GetPageCount() }
	put := func(value string) int64 {
		before := pages()
		check.OK(t, db.Update(func(tx *Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put([]byte("k"), []byte(value))
		}))
		return pages() - before
	}
	put("one")
	if other, same := put("two"), put("two"); other == 0 || same != 0 {
		t.Errorf("another value allocated %d pages, the same one %d", other, same)
	}
}

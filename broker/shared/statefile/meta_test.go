package statefile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cellgate/test/check"
)

// TestMetaPages checks that a meta page damaged by more than a bit is handled like a torn write: the file falls back
// and reports it; after a clean stop nothing is lost.
func TestMetaPages(t *testing.T) {
	t.Parallel()
	for _, stop := range []string{"clean", "kill"} {
		for slot := range 2 {
			t.Run(fmt.Sprint(stop, slot), func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "state.db")
				db := open(t, file)
				fill(t, db, 20, 3)
				before := dump(t, db)
				fill(t, db, 20, 1)
				after := dump(t, db)
				newest := lastCommit(t, db) % 2
				if stop == "clean" {
					check.OK(t, db.Close())
				}
				data := check.Read(t, file)
				copy(data[slot*pageSize+pageHeader+48:], "torn")
				if err := os.WriteFile(file+".2", data, 0o600); err != nil { //nolint:gosec // a test's
					t.Fatal(err)
				}
				db = open(t, file+".2")
				want := after
				if stop == "kill" && slot == newest {
					want = before
				}
				if !db.FellBack() || !dump(t, db).equal(want) {
					t.Errorf("fell back: %v; the content is the one that is expected: %v", db.FellBack(), dump(t, db).equal(want))
				}
			})
		}
	}
}

// lastCommit returns the number of the last writing transaction.
func lastCommit(t *testing.T, db *DB) (id int) {
	t.Helper()
	check.OK(t, db.View(func(tx *Tx) error { id = tx.ID(); return nil }))
	return id
}

// TestTornMetaWrite truncates the write of a meta page at every byte.
func TestTornMetaWrite(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.db")
	db := open(t, file)
	fill(t, db, 10, 3)
	before := dump(t, db)
	old := check.Read(t, file)
	fill(t, db, 10, 1)
	after := dump(t, db)
	slot := lastCommit(t, db) % 2
	data := check.Read(t, file)
	for n := range metaSize + 1 {
		at := slot*pageSize + pageHeader
		torn := bytes.Clone(data)
		copy(torn[at+n:at+metaSize], old[at+n:at+metaSize])
		if err := os.WriteFile(file+".2", torn, 0o600); err != nil { //nolint:gosec // a test's
			t.Fatal(err)
		}
		db, err := Open(file+".2", Options{Sync: SyncNever})
		if err != nil {
			t.Fatalf("%d bytes written: %v", n, err)
		}
		got := dump(t, db)
		if !got.equal(before) && (db.FellBack() || !got.equal(after)) {
			t.Errorf("%d bytes written: other content, fell back: %v", n, db.FellBack())
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBranchKeys makes a child's key smaller than its first one: bbolt continues to read, and would later add a second
// reference to the child.
func TestBranchKeys(t *testing.T) {
	t.Parallel()
	data, want := sample(t, 40, 8)
	file, ne, branches := filepath.Join(t.TempDir(), "state.db"), binary.NativeEndian, 0
	for id, flags := range pagesInUse(t, data) {
		if flags != flagBranch {
			continue
		}
		branches++
		for i := range int(ne.Uint16(data[id*pageSize+10:])) {
			at := id*pageSize + pageHeader + i*elementSize
			last := at + int(ne.Uint32(data[at:])+ne.Uint32(data[at+4:])) - 1
			data[last]--
			if err := outcome(t, file, data, want); err == nil {
				t.Errorf("page %d, child %d: opened", id, i)
			}
			data[last]++
		}
	}
	if branches == 0 {
		t.Error("no branch")
	}
}

package statefile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/test/check"
)

// A deleted or replaced file takes no more transactions, and no commit is lost.
func TestAFileThatIsGone(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(file string) error{
		"deleted": os.Remove,
		"renamed": func(file string) error { return os.Rename(file, file+".old") },
		"replaced": func(file string) error {
			return errors.Join(os.Remove(file), os.WriteFile(file, []byte("another"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "state.db")
			fatal := make(chan error, 2)
			db, err := Open(file, Options{Sync: SyncAlways, OnFatal: func(err error) { fatal <- err }})
			check.OK(t, err)
			t.Cleanup(func() { _ = db.bolt.Close() })
			fill(t, db, 40, 5)
			check.OK(t, db.checkPlace())
			want := dump(t, db)
			check.OK(t, take(file))
			put := func(tx *Tx) error { return tx.Bucket([]byte("rules")).Put([]byte("late"), []byte("x")) }
			err = db.Update(put)
			if !errors.Is(err, ErrGone) || !errors.Is(<-fatal, ErrGone) || !errors.Is(db.Update(put), ErrGone) || !errors.Is(db.View(func(*Tx) error { return nil }), ErrGone) {
				t.Fatalf("error %v", err)
			}
			kept := file
			if name == "replaced" {
				if b, _ := os.ReadFile(file); string(b) != "another" { //nolint:gosec // a test's
					t.Fatal("what was put there is gone")
				}
				_, kept, _ = strings.Cut(err.Error(), "its content is in ")
			}
			again, err := Open(kept, Options{Sync: SyncAlways})
			check.OK(t, err)
			defer again.Close() //nolint:errcheck // a test
			got := dump(t, again)
			for k, v := range want {
				if !strings.Contains(k, "rules") && got[k] != v {
					t.Fatalf("%q is another", k)
				}
			}
		})
	}
}

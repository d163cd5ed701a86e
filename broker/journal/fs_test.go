package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// dirs is a tree of directories of which a power loss leaves what was synced.
type dirs struct {
	there, durable map[string]bool
	syncErr        error
}

func (d *dirs) mkdir(dir string) error {
	switch {
	case d.there[dir]:
		return os.ErrExist
	case !d.there[filepath.Dir(dir)]:
		return os.ErrNotExist
	}
	d.there[dir] = true
	return nil
}

func (d *dirs) sync(dir string) error {
	if d.syncErr != nil {
		return d.syncErr
	}
	for name := range d.there {
		if filepath.Dir(name) == dir {
			d.durable[name] = true
		}
	}
	return nil
}

func TestMakeDirIsDurableAlsoBehindAStartThatWasKilled(t *testing.T) {
	t.Parallel()
	killed := errors.New("killed")
	d := &dirs{there: map[string]bool{"/": true}, durable: map[string]bool{"/": true}}
	for _, dir := range []string{"/data", "/data/journal"} {
		d.syncErr = killed
		if err := MakeDirWith(dir, d.mkdir, d.sync); !errors.Is(err, killed) || !d.there[dir] || d.durable[dir] {
			t.Fatalf("%s: %v %v", dir, err, d)
		}
		d.syncErr = nil
		if err := MakeDirWith(dir, d.mkdir, d.sync); err != nil || !d.durable[dir] {
			t.Fatalf("%s is not durable: %v %v", dir, err, d)
		}
	}
	if err := MakeDirWith("/data/a/b", d.mkdir, d.sync); err != nil || !d.durable["/data/a"] || !d.durable["/data/a/b"] {
		t.Fatalf("%v %v", err, d)
	}
	d.syncErr = os.ErrPermission // of a parent that belongs to somebody else
	if err := MakeDirWith("/data", d.mkdir, d.sync); err != nil {
		t.Fatal(err)
	}
	if err := MakeDirWith("/data/c", d.mkdir, d.sync); !errors.Is(err, os.ErrPermission) {
		t.Fatalf("made but not synced: %v", err)
	}
}

func TestMakeDir(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := MakeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeDir(filepath.Join(file, "c")); err == nil {
		t.Fatal("made a directory below a file")
	}
}

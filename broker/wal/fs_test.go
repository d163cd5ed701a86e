package wal_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

func TestMkdirAllIsDurableAlsoAfterAStartThatWasKilled(t *testing.T) {
	t.Parallel()
	var syncErr error
	m := waltest.New()
	m.Before = func(o waltest.Op, _ string) error {
		if o == waltest.SyncDir {
			return syncErr
		}
		return nil
	}
	there := func(m *waltest.FS, dir string) bool {
		_, err := m.List(dir)
		return err == nil
	}
	killed := errors.New("killed")
	for _, dir := range []string{"/data", "/data/journal"} {
		syncErr = killed
		if err := m.MkdirAll(dir); !errors.Is(err, killed) || !there(m, dir) || there(m.Crash(nil, 0), dir) {
			t.Fatalf("%s: %v", dir, err)
		}
		syncErr = nil
		if err := m.MkdirAll(dir); err != nil || !there(m.Crash(nil, 0), dir) {
			t.Fatalf("%s is not durable: %v", dir, err)
		}
	}
	if err := m.MkdirAll("/data/a/b"); err != nil || !there(m.Crash(nil, 0), "/data/a/b") {
		t.Fatal(err)
	}
	syncErr = os.ErrPermission // of a parent that belongs to somebody else
	check.OK(t, m.MkdirAll("/data"))
	if err := m.MkdirAll("/data/c"); !errors.Is(err, os.ErrPermission) {
		t.Fatalf("made but not synced: %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	t.Parallel()
	var system wal.OS
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		check.OK(t, system.MkdirAll(dir))
	}
	file := filepath.Join(dir, "file")
	check.OK(t, os.WriteFile(file, nil, 0o600))
	if err := system.MkdirAll(filepath.Join(file, "c")); err == nil {
		t.Fatal("made a directory below a file")
	}
}

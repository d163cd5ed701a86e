//go:build unix

package wal

import (
	"path/filepath"
	"syscall"
	"testing"

	"cellgate/test/check"
)

// A child that is being forked has the lock's file for a moment. It does not keep the lock.
func TestLockIsFreeAfterClose(t *testing.T) {
	t.Parallel()
	name, fs := filepath.Join(t.TempDir(), "lock"), OS{Perm: 0o600}
	held, err := fs.Lock(name)
	check.OK(t, err)
	child, err := syscall.Dup(int(held.(lock).Fd())) //nolint:gosec,forcetypeassert // as Lock makes it
	check.OK(t, err)
	defer func() { _ = syscall.Close(child) }()
	check.OK(t, held.Close())
	again, err := fs.Lock(name)
	if err != nil {
		t.Fatalf("closed, and still locked: %v", err)
	}
	check.OK(t, again.Close())
}

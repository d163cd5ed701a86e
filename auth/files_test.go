package auth

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cellgate/test/check"
)

// TestRootGivesFilesToTheOwner checks that files written by root into a directory of the gateway's user belong to that
// user.
func TestRootGivesFilesToTheOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const user = 54321
	dir := t.TempDir()
	check.OK(t, os.Chown(dir, user, user))
	f := open(t, func(c *Config) { c.Dir = dir })
	_, err := f.Rotate(RotateRequest{})
	check.OK(t, err)
	_, err = f.Revoke(Revocation{TokenID: "x"}, Caller{})
	check.OK(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v %v", files, err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		check.OK(t, err)
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != user {
			t.Errorf("%s belongs to %d", name, owner)
		}
	}
}

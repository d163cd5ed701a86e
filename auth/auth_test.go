package auth

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
)

func TestIssueAndVerify(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{ES256, EdDSA} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			f := open(t, func(c *Config) { c.Algorithm = alg })
			token, want := f.issue(t, IssueRequest{
				Subject: "dashboard", Role: RoleService, Scopes: []string{ScopeTelemetryRead, ScopeCommandSend}, TTL: time.Minute,
			})
			for range 2 { // the second is from the cache
				got, err := f.Verify([]byte(token), Peer{})
				check.OK(t, err)
				if got.Subject != "dashboard" || got.Role != RoleService || got.TokenID != want.TokenID ||
					got.Issuer != "cellgate/"+testCell || !slices.Equal(got.Scopes, want.Scopes) ||
					!got.IssuedAt.Equal(f.clock.Now()) || !got.Expires.Equal(f.clock.Now().Add(time.Minute)) ||
					got.KeyID != f.Keys()[0].KID {
					t.Fatalf("got %+v, issued %+v", got, want)
				}
			}
			if f.cache.len() != 1 {
				t.Fatalf("cache has %d entries", f.cache.len())
			}
		})
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "auth")
	f := open(t, func(c *Config) { c.Dir = dir })
	_, err := f.Revoke(Revocation{TokenID: "x"}, Caller{})
	check.OK(t, err)
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("directory mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	check.OK(t, err)
	if len(entries) < 3 {
		t.Fatalf("only %d files", len(entries))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestOpenRefusesAKeyThatOthersCanRead(t *testing.T) {
	t.Parallel()
	f := open(t)
	check.OK(t, os.Chmod(keyPath(f.dir, f.Keys()[0].KID), 0o640))
	if _, err := Open(testConfig(f.dir, time.Now)); err == nil {
		t.Fatal("opened")
	}
}

// A named pipe among the keys is an error that names it; reading it would wait for a writer.
func TestOpenRefusesAPipeAmongTheKeys(t *testing.T) {
	t.Parallel()
	f := open(t)
	pipe := keyPath(f.dir, "pipe")
	check.OK(t, syscall.Mkfifo(pipe, 0o600))
	if _, err := Open(testConfig(f.dir, time.Now)); err == nil || !strings.Contains(err.Error(), pipe) || !strings.Contains(err.Error(), "named pipe") {
		t.Fatal(err)
	}
}

func TestOpenWithNoCreate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mistyped")
	c := testConfig(dir, time.Now)
	c.NoCreate = true
	if _, err := Open(c); !errors.Is(err, ErrNoKeys) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("directory was made: %v", err)
	}
}

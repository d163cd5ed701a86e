package auth

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/forge"
)

func jwksKIDs(t *testing.T, a *Authority) []string {
	t.Helper()
	rec := httptest.NewRecorder()
	a.JWKS().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/.well-known/jwks.json", nil))
	var set jwks
	check.OK(t, json.Unmarshal(rec.Body.Bytes(), &set))
	if strings.Contains(rec.Body.String(), `"d"`) {
		t.Fatal("a private key is published")
	}
	kids := make([]string, len(set.Keys))
	for i, k := range set.Keys {
		kids[i] = k.KID
	}
	return kids
}

// TestRotation follows one rotation from start to end.
func TestRotation(t *testing.T) {
	t.Parallel()
	const activation = 10 * time.Second
	f := open(t, func(c *Config) { c.KeyActivation = activation })
	first := f.Keys()[0].KID
	before := f.vehicle(t, testVIN)
	firstKey := f.ring.Load().byKID[first].verifyKey
	info, err := f.Rotate(RotateRequest{Algorithm: EdDSA, Caller: Caller{By: "op"}})
	check.OK(t, err)
	_, err = f.Verify([]byte(before), Peer{})
	check.OK(t, err)
	if old := f.ring.Load().byKID[first]; old.verifyKey != firstKey || old.notAfter.IsZero() {
		t.Fatal("the old key got its end, and the token cache forgot its tokens")
	}
	if kids := jwksKIDs(t, f.Authority); !slices.Equal(kids, []string{first, info.KID}) {
		t.Fatalf("published %v", kids)
	}
	if _, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle}); id.KeyID != first {
		t.Fatal("the new key signs before it has been published for long enough")
	}
	f.clock.Add(activation + time.Second)
	after, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle})
	if id.KeyID != info.KID {
		t.Fatal("the new key does not sign")
	}
	for _, token := range []string{before, after} {
		_, err := f.Verify([]byte(token), Peer{})
		check.OK(t, err)
	}
	// The last token of the old key, issued right before the switch, is valid to the end of its leeway.
	f.clock.Add(time.Hour + time.Minute - 12*time.Second)
	if _, err := f.Verify([]byte(before), Peer{}); err != nil {
		t.Fatalf("refused before its time: %v", err)
	}
	f.clock.Add(2 * time.Minute)
	if kids := jwksKIDs(t, f.Authority); !slices.Equal(kids, []string{info.KID}) {
		t.Fatalf("still published: %v", kids)
	}
	if _, err := os.Stat(keyPath(f.dir, first)); err != nil {
		t.Fatalf("file deleted within the grace of a clock's jump: %v", err)
	}
	f.clock.Add(dropGrace + time.Hour)
	f.prune()
	if _, err := os.Stat(keyPath(f.dir, first)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("file of the retired key is still there: %v", err)
	}
	if err := f.Reload(); err != nil || len(f.Keys()) != 1 {
		t.Fatalf("%v, %d keys", err, len(f.Keys()))
	}
	if !strings.Contains(f.logs.String(), `"event":"rotate"`) {
		t.Error("not in the audit log")
	}
}

// TestRotationUnderLoad rotates keys repeatedly, in this process and another on the same directory. No vehicle may be
// refused the verification or issue of a token.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	// The clock is real, so that the activation passes. Half of the default is enough for every process to read the key
	// before one signs with it, even on a busy machine.
	const activation = 5 * time.Second
	f := open(t, func(c *Config) { c.Now, c.KeyActivation, c.CacheSize = time.Now, activation, 64 })
	tool := open(t, func(c *Config) { c.Dir, c.Now, c.KeyActivation, c.NoCreate = f.dir, time.Now, activation, true })
	var stop atomic.Bool
	var wg sync.WaitGroup
	var verified atomic.Int64
	for i := range 8 {
		issuer := []*fixture{f, tool}[i%2]
		wg.Go(func() {
			for !stop.Load() {
				token, _, err := issuer.Issue(IssueRequest{Subject: testVIN, Role: RoleVehicle})
				if err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					if _, err := f.Verify([]byte(token), Peer{}); err != nil {
						t.Errorf("refused: %v", err)
						return
					}
				}
				verified.Add(1)
			}
		})
	}
	for _, who := range []*fixture{f, tool} {
		want := len(f.Keys()) + 1
		if _, err := who.Rotate(RotateRequest{}); err != nil {
			t.Error(err)
		}
		check.Eventually(t, "the other process's key is loaded and signs", func() bool {
			keys := f.Keys()
			return t.Failed() || (len(keys) == want && keys[len(keys)-1].Signing)
		})
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d tokens issued and verified", verified.Load())
}

// TestClockJumps checks that every verdict depends on the present clock only. A jump in either direction changes it at
// once and back again, cached or not, and never admits an expired token beyond the leeway.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	f := open(t)
	token, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle, TTL: 30 * time.Minute})
	start := f.clock.Now()
	steps := []struct {
		at   time.Duration // since issue
		want error
	}{
		{0, nil},
		{time.Hour, ErrExpired}, // an hour ahead
		{0, nil},                // and back: valid again
		{-time.Hour, ErrNotYetValid},
		{-61 * time.Second, ErrNotYetValid},
		{-60 * time.Second, nil},
		{0, nil},
		{30*time.Minute + 59*time.Second, nil}, // within the leeway
		{31 * time.Minute, ErrExpired},
		{30 * time.Minute, nil},
		{90 * time.Minute, ErrExpired},
		{31*time.Minute - time.Nanosecond, nil},
	}
	for _, s := range steps {
		f.clock.Add(start.Add(s.at).Sub(f.clock.Now()))
		if _, err := f.Verify([]byte(token), Peer{}); !errors.Is(err, s.want) || (s.want == nil && err != nil) {
			t.Errorf("at %s: %v, want %v", s.at, err, s.want)
		}
	}
	f.clock.Add(start.Sub(f.clock.Now()))
	if d := f.Deadline(id); !d.Equal(id.Expires) {
		t.Errorf("deadline %s", d)
	}
	f.clock.Add(30*time.Minute + 10*time.Second)
	if d := f.Deadline(id); !d.Equal(id.Expires.Add(time.Minute)) {
		t.Errorf("deadline within the leeway %s", d)
	}
}

// TestClockJumpKeepsKeysAndRevocations checks that a jump of an hour ahead and back deletes no revocation or key.
func TestClockJumpKeepsKeysAndRevocations(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.MaxTTL = time.Hour })
	revoked := f.vehicle(t, testVIN)
	_, err := f.Revoke(Revocation{Subject: testVIN}, Caller{})
	check.OK(t, err)
	kept := f.vehicle(t, otherVIN)
	_, err = f.Rotate(RotateRequest{})
	check.OK(t, err)
	f.clock.Add(5 * time.Hour)
	f.prune()
	check.OK(t, f.Reload())
	f.clock.Add(-5 * time.Hour)
	if _, err := f.Verify([]byte(revoked), Peer{}); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked token: %v", err)
	}
	if _, err := f.Verify([]byte(kept), Peer{}); err != nil {
		t.Errorf("good token: %v", err)
	}
}

// TestReload checks that a bad key file changes nothing, and that a good one takes effect by itself.
func TestReload(t *testing.T) {
	t.Parallel()
	f := open(t)
	token := f.vehicle(t, testVIN)
	bad := keyPath(f.dir, "broken")
	check.OK(t, os.WriteFile(bad, []byte(`{"version":1,"private_key":"`+forge.Canary+`"`), 0o600))
	if err := f.Reload(); err == nil || strings.Contains(err.Error(), forge.Canary) || !strings.Contains(err.Error(), bad) {
		t.Fatalf("got %v", err)
	}
	check.Eventually(t, "the error is logged once", func() bool { return strings.Contains(f.logs.String(), "cannot be read") })
	_, err := f.Verify([]byte(token), Peer{})
	check.OK(t, err)
	check.OK(t, os.Remove(bad))
	check.Eventually(t, "recovery is logged", func() bool { return strings.Contains(f.logs.String(), "can be read again") })
	if n := strings.Count(f.logs.String(), "cannot be read"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// TestLoadKeyRefuses checks every way in which a key file can be wrong.
func TestLoadKeyRefuses(t *testing.T) {
	t.Parallel()
	f := open(t)
	good := f.ring.Load().own[0].file
	other, err := newSignKey(ES256, f.clock.Now(), f.clock.Now())
	check.OK(t, err)
	tests := map[string]func(*keyFile){
		"version":        func(k *keyFile) { k.Version = 2 },
		"kid":            func(k *keyFile) { k.KID = other.file.KID },
		"private key":    func(k *keyFile) { k.PrivateKey = other.file.PrivateKey },
		"not PEM":        func(k *keyFile) { k.PrivateKey = "x" },
		"algorithm":      func(k *keyFile) { k.Alg = EdDSA },
		"no algorithm":   func(k *keyFile) { k.Alg = "" },
		"alg none":       func(k *keyFile) { k.Alg = "none" },
		"not a key":      func(k *keyFile) { k.PrivateKey = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" },
		"truncated file": nil,
	}
	for name, spoil := range tests {
		file := good
		b, err := json.Marshal(file)
		if spoil != nil {
			spoil(&file)
			b, err = json.Marshal(file)
		} else {
			b = b[:len(b)/2]
		}
		check.OK(t, err)
		path := keyPath(t.TempDir(), "x")
		check.OK(t, os.WriteFile(path, b, 0o600))
		if _, err := loadKey(path, f.own); err == nil || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

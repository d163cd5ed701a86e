package auth

import (
	"errors"
	"os"
	"testing"
	"time"

	"cellgate/test/check"
)

// TestRevocationHasTheLeewayOnTheSafeSide checks that a token dated ahead that Verify accepts does not survive a
// revocation by sub, and that a token issued afterwards does, even in the same second.
func TestRevocationHasTheLeewayOnTheSafeSide(t *testing.T) {
	t.Parallel()
	f := open(t)
	ahead := open(t, func(c *Config) { c.Dir = f.dir })
	ahead.clock.Add(50 * time.Second)
	dated := ahead.vehicle(t, testVIN)
	id := f.accepted(t, dated)
	f.revoke(t, Revocation{Subject: testVIN})
	if _, err := f.Verify([]byte(dated), Peer{}); !errors.Is(err, ErrRevoked) {
		t.Errorf("a token dated 50 s ahead: %v", err)
	}
	if err := f.Ended(id); !errors.Is(err, ErrRevoked) {
		t.Errorf("its live session: %v", err)
	}
	f.accepted(t, f.vehicle(t, testVIN))
}

// TestRevokeIssueRevoke does all three in one second; the token issued in between is revoked.
func TestRevokeIssueRevoke(t *testing.T) {
	t.Parallel()
	for _, r := range []Revocation{{Subject: testVIN}, {IssuedBefore: newClock().Now()}} {
		f := open(t)
		f.revoke(t, r)
		between := f.vehicle(t, testVIN)
		f.accepted(t, between)
		f.clock.Add(time.Millisecond)
		f.revoke(t, r)
		if _, err := f.Verify([]byte(between), Peer{}); !errors.Is(err, ErrRevoked) {
			t.Errorf("%+v: the token issued between two revocations: %v", r, err)
		}
		f.accepted(t, f.vehicle(t, testVIN))
		again := open(t, func(c *Config) { c.Dir = f.dir })
		if _, err := again.Verify([]byte(between), Peer{}); !errors.Is(err, ErrRevoked) {
			t.Errorf("%+v: after a restart: %v", r, err)
		}
	}
}

// TestLockIsALock checks that nothing is issued for a locked-out subject, however short the lock.
func TestLockIsALock(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.revoke(t, Revocation{Subject: testVIN, IssuedBefore: f.clock.Now().Add(30 * time.Second)})
	req := IssueRequest{Subject: testVIN, Role: RoleVehicle}
	for range 30 {
		if token, _, err := f.Issue(req); !errors.Is(err, ErrRevoked) {
			t.Fatalf("issued %d bytes for a locked out subject, %v", len(token), err)
		}
		f.clock.Add(time.Second)
	}
	f.clock.Add(time.Second)
	f.accepted(t, f.vehicle(t, testVIN))
}

// TestRevocationStaysWithItsIssuer checks that a revocation for one issuer or role does not affect the same subject of
// another.
func TestRevocationStaysWithItsIssuer(t *testing.T) {
	t.Parallel()
	f := open(t)
	own := Identity{Issuer: f.cfg.Issuer, Role: RoleService, Subject: "billing", IssuedAt: f.clock.Now(), KeyID: f.Keys()[0].KID}
	foreign, vehicle, old := own, own, own
	foreign.Issuer, vehicle.Role, old.Issuer = "https://idp.example", RoleVehicle, "https://old.example"
	revoked := func(id Identity) bool { return errors.Is(f.Ended(id), ErrRevoked) }

	f.revoke(t, Revocation{Subject: "billing", Role: RoleService})
	if !revoked(own) || revoked(foreign) || revoked(vehicle) {
		t.Errorf("by role: own %v, foreign %v, vehicle %v", revoked(own), revoked(foreign), revoked(vehicle))
	}
	f.revoke(t, Revocation{Subject: "billing", Issuer: foreign.Issuer})
	if !revoked(foreign) || revoked(vehicle) {
		t.Errorf("by issuer: foreign %v, vehicle %v", revoked(foreign), revoked(vehicle))
	}
	f.revoke(t, Revocation{Subject: "billing"})
	if !revoked(vehicle) {
		t.Error("without a role it holds for every role")
	}
	entry := Revocation{Subject: "billing", IssuedBefore: f.clock.Now(), Until: f.clock.Now().Add(time.Hour), At: f.clock.Now()}
	check.OK(t, f.revLog.append([]Revocation{entry}))
	check.Eventually(t, "an entry of an earlier version holds for every issuer", func() bool { return revoked(old) })
}

// TestSessionsEndWithTheirKey checks that sessions end with their token's key: after a rotation that does not keep it,
// when its time has passed, and when its file is removed.
func TestSessionsEndWithTheirKey(t *testing.T) {
	t.Parallel()
	end := map[string]func(t *testing.T, f *fixture, kid string){
		"its time": func(t *testing.T, f *fixture, _ string) {
			_, err := f.Rotate(RotateRequest{Keep: time.Second})
			check.OK(t, err)
			f.clock.Add(5 * time.Minute)
		},
		"its file": func(t *testing.T, f *fixture, kid string) {
			_, err := f.Rotate(RotateRequest{})
			check.OK(t, err)
			check.OK(t, os.Remove(keyPath(f.dir, kid)))
		},
	}
	for name, act := range end {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			token, _ := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle, TTL: 20 * 24 * time.Hour})
			id := f.accepted(t, token)
			told := make(chan error, 1024)
			defer f.WatchEnded(func(ended func(Identity) error) { told <- ended(id) })()
			act(t, f, id.KeyID)
			for {
				select {
				case err := <-told:
					if errors.Is(err, ErrKeyRetired) {
						return
					}
				case <-time.After(time.Minute):
					t.Fatal("nobody was told that the key is gone")
				}
			}
		})
	}
}

// TestAKeyFileIsNotGoneAtOnce restores a directory of keys file by file, twice; no session may end.
func TestAKeyFileIsNotGoneAtOnce(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.Poll = time.Hour })
	token, _ := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle, TTL: 20 * 24 * time.Hour})
	id := f.accepted(t, token)
	_, err := f.Rotate(RotateRequest{})
	check.OK(t, err)
	file := keyPath(f.dir, id.KeyID)
	for range 3 {
		for _, step := range []func() error{
			func() error { return os.Rename(file, file+".away") }, f.Reload,
			func() error { return os.Rename(file+".away", file) }, f.Reload,
		} {
			check.OK(t, step())
			if err := f.Ended(id); err != nil {
				t.Fatalf("a session ended: %v", err)
			}
		}
	}
	check.OK(t, os.Remove(file))
	check.Eventually(t, "a key that stays away is gone", func() bool { return f.Reload() == nil && errors.Is(f.Ended(id), ErrKeyRetired) })
}

func (f *fixture) accepted(t *testing.T, token string) Identity {
	t.Helper()
	f.clock.Add(time.Second) // Issue may date a token into the next second
	id, err := f.Verify([]byte(token), Peer{})
	f.clock.Add(-time.Second)
	check.OK(t, err)
	return id
}

func (f *fixture) revoke(t *testing.T, r Revocation) {
	t.Helper()
	_, err := f.Revoke(r, Caller{})
	check.OK(t, err)
}

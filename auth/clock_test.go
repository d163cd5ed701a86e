package auth

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/check"
)

const year = 365 * 24 * time.Hour

// doubt is how long the wall clock has been trusted, set by the test.
type doubt struct{ trusted atomic.Int64 }

func (d *doubt) get() time.Duration { return time.Duration(d.trusted.Load()) }

// TestWrongClockDeletesNothing checks that neither a start nor a minute with a clock ten years ahead deletes a
// revocation or a retired key. Both are deleted once the clock has been right for longer than any token's lifetime.
func TestWrongClockDeletesNothing(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year} {
		var d doubt
		d.trusted.Store(int64(year))
		f := open(t, func(c *Config) { c.Trusted, c.Poll = d.get, time.Hour })
		token, id := f.issue(t, IssueRequest{Role: RoleVehicle, Subject: testVIN})
		_, err := f.Revoke(Revocation{TokenID: id.TokenID}, Caller{})
		check.OK(t, err)
		old := f.Keys()[0].KID
		f.clock.Add(2 * time.Second)
		_, err = f.Rotate(RotateRequest{Keep: time.Hour})
		check.OK(t, err)
		d.trusted.Store(0) // the step is noticed
		f.clock.Add(by)
		f.prune()
		c := testConfig(f.dir, f.clock.Now)
		c.Trusted = d.get
		again, err := Open(c)
		check.OK(t, err)
		again.prune()
		f.clock.Add(-by) // corrected
		for name, a := range map[string]*Authority{"running": f.Authority, "started meanwhile": again} {
			if _, err := a.Verify([]byte(token), Peer{}); !errors.Is(err, ErrRevoked) {
				t.Errorf("%v off, %s: the revoked token: %v", by, name, err)
			}
			if n := len(a.Keys()); n != 2 {
				t.Errorf("%v off, %s: %d keys", by, name, n)
			}
		}
		if _, err := os.Stat(keyPath(f.dir, old)); err != nil {
			t.Errorf("%v off: %v", by, err)
		}
		f.clock.Add(100 * 24 * time.Hour)
		d.trusted.Store(int64(100 * 24 * time.Hour))
		f.prune()
		if n := len(f.revoked.all()); n != 0 {
			t.Errorf("%v off: %d revocations are kept for good", by, n)
		}
		if _, err := os.Stat(keyPath(f.dir, old)); err == nil {
			t.Errorf("%v off: the retired key is kept for good", by)
		}
		check.OK(t, again.Close(t.Context()))
	}
}

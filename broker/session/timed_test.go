package session

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// timed runs a test under a fake clock.
func timed(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, func(o *Options) { o.CommitInterval = time.Second })
		test(t, e)
		e.close()
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestSessionExpires(t *testing.T) {
	t.Parallel()
	timed(t, func(t *testing.T, e *env) {
		c, _ := e.attach("svc", func(a *Attach) { a.Expiry = time.Minute })
		c.subscribe(sub("t", 1))
		c.detach(false)
		e.say("t", 1, "a")
		pass(59 * time.Second)
		c, present := e.attach("svc", func(a *Attach) { a.Expiry = time.Minute })
		if !present {
			t.Fatal("session gone too early")
		}
		pass(time.Hour) // connected
		c.expect("t=a q1 #1")
		c.detach(false)
		pass(61 * time.Second)
		if _, ok := e.m.Get("svc"); ok || e.index.Count() != 0 {
			t.Error("session there after its expiry")
		}
		pass(2 * time.Second)
		e.kill()
		if _, ok := e.m.Get("svc"); ok {
			t.Error("session there after a restart")
		}
	})
}

// With a clock that counts the time between two runs, a session expires during that time. The gateway's clock does not:
// see clock_test.go.
func TestSessionExpiresWhileTheGatewayIsDown(t *testing.T) {
	t.Parallel()
	timed(t, func(t *testing.T, e *env) {
		c, _ := e.attach("gone", func(a *Attach) { a.Expiry = time.Minute })
		c.detach(false)
		c, _ = e.attach("was connected", func(a *Attach) { a.Expiry = time.Minute })
		c.detach(false)
		e.attach("was connected", func(a *Attach) { a.Expiry = time.Minute })
		pass(2 * time.Second)
		e.close()
		time.Sleep(2 * time.Minute)
		e.open()
		synctest.Wait()
		if _, ok := e.m.Get("gone"); ok {
			t.Error("session there after its expiry")
		}
		if _, ok := e.m.Get("was connected"); !ok {
			t.Error("the session of a client that was connected ended with the gateway")
		}
	})
}

func TestWills(t *testing.T) {
	t.Parallel()
	withWill := func(delay time.Duration, more ...func(*Attach)) func(*Attach) {
		return func(a *Attach) {
			a.Will = &Will{Topic: "will", Payload: []byte("w"), QoS: 1, Retain: true, Delay: delay}
			for _, f := range more {
				f(a)
			}
		}
	}
	for name, tc := range map[string]struct {
		attach func(*Attach)
		then   func(e *env, c *conn)
		want   int
	}{
		"at once":               {withWill(0), func(_ *env, c *conn) { c.detach(false) }, 1},
		"normal disconnect":     {withWill(0), func(_ *env, c *conn) { c.detach(true) }, 0},
		"while connected":       {withWill(0), func(*env, *conn) {}, 0},
		"not yet":               {withWill(time.Minute), func(_ *env, c *conn) { c.detach(false); pass(59 * time.Second) }, 0},
		"after its delay":       {withWill(time.Minute), func(_ *env, c *conn) { c.detach(false); pass(61 * time.Second) }, 1},
		"cancelled by a resume": {withWill(time.Minute), func(e *env, c *conn) { c.detach(false); e.attach("c"); pass(time.Hour) }, 0},
		"with the session's end": {
			withWill(time.Hour, func(a *Attach) { a.Expiry = time.Minute }),
			func(_ *env, c *conn) { c.detach(false); pass(61 * time.Second) }, 1,
		},
		"session without expiry":       {withWill(time.Hour, volatile), func(_ *env, c *conn) { c.detach(false) }, 1},
		"clean start ends the session": {withWill(time.Hour), func(e *env, c *conn) { c.detach(false); e.attach("c", clean) }, 1},
		"takeover":                     {withWill(0), func(e *env, _ *conn) { e.attach("c") }, 1},
		"takeover within the delay":    {withWill(time.Minute), func(e *env, _ *conn) { e.attach("c"); pass(time.Hour) }, 0},
		"after the token's end": {
			withWill(time.Minute, func(a *Attach) { a.NotAfter = time.Now().Add(30 * time.Second) }),
			func(_ *env, c *conn) { c.detach(false); pass(2 * time.Minute) }, 0,
		},
		"before the token's end": {
			withWill(time.Minute, func(a *Attach) { a.NotAfter = time.Now().Add(90 * time.Second) }),
			func(_ *env, c *conn) { c.detach(false); pass(2 * time.Minute) }, 1,
		},
		"no longer permitted": {withWill(0), func(_ *env, c *conn) {
			c.s.SetPermissions(perms{publish: []string{"will"}}, time.Time{})
			c.detach(false)
		}, 0},
		"kill while connected": {withWill(0), func(e *env, _ *conn) { pass(2 * time.Second); e.kill(); synctest.Wait() }, 1},
		"kill within the delay": {withWill(time.Minute), func(e *env, c *conn) {
			c.detach(false)
			pass(2 * time.Second)
			e.kill()
			pass(30 * time.Second)
			if n := len(e.journal.topics(1)); n != 0 {
				e.t.Errorf("%d wills too early", n)
			}
			pass(time.Minute)
		}, 1},
		"sent once across a kill": {withWill(0), func(e *env, c *conn) { c.detach(false); pass(2 * time.Second); e.kill(); pass(time.Hour) }, 1},
		"the journal is full for a while": {withWill(0), func(e *env, c *conn) {
			e.journal.setFail(errors.New("full"))
			c.detach(false)
			pass(5 * time.Second)
			e.journal.setFail(nil)
			pass(2 * time.Second)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timed(t, func(t *testing.T, e *env) {
				e.t = t
				c, _ := e.attach("c", tc.attach)
				tc.then(e, c)
				synctest.Wait()
				recs := e.journal.from(1)
				if len(recs) != tc.want {
					t.Fatalf("%d wills, want %d", len(recs), tc.want)
				}
				for _, r := range recs {
					if r.Topic != "will" || string(r.Payload) != "w" || r.QoS != 1 || !r.Retain || r.Client != "c" || r.PacketID != 0 {
						t.Errorf("will %+v", r)
					}
				}
			})
		})
	}
}

func TestWillsAreRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, topic := range []string{"secret", "v1/V/token", "a/#", ""} {
		_, _, err := e.tryAttach(t.Context(), "V", func(a *Attach) {
			a.Will, a.Perm = &Will{Topic: topic}, perms{publish: []string{"secret"}}
		})
		if !errors.Is(err, ErrWillNotPermitted) {
			t.Errorf("%q: %v", topic, err)
		}
	}
}

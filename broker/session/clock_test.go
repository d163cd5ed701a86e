package session

import (
	"testing"
	"testing/synctest"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/clock/clocktest"
	"cellgate/broker/shared/message"
)

const year = 365 * 24 * time.Hour

var clockSteps = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year}

// clockEnv is an env on the gateway's clock, over a wall clock that the test sets.
type clockEnv struct {
	*env
	machine *clocktest.Clock
	c       *clock.Clock
}

// onAClock runs a test for every step of the wall clock, under a fake clock.
func onAClock(t *testing.T, test func(e *clockEnv, by time.Duration)) {
	t.Helper()
	for _, by := range clockSteps {
		t.Run(by.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &clockEnv{machine: clocktest.Running()}
				e.c, _ = clock.New(e.machine.Source(), clock.Saved{})
				e.env = newEnv(t, func(o *Options) {
					o.CommitInterval = time.Second
					o.Now = func() time.Time { return e.c.Now() }
					o.Wall = e.machine.Wall
				})
				e.journal.wall = e.machine.Wall
				test(e, by)
				e.close()
			})
		})
	}
}

// step sets the wall clock while the gateway runs.
func (e *clockEnv) step(by time.Duration) {
	e.machine.Step(by)
	e.c.Stepped(by)
	synctest.Wait()
}

// restart sets the wall clock between two runs.
func (e *clockEnv) restart(by time.Duration) {
	e.close()
	saved := e.c.Save()
	e.machine.Step(by)
	e.c, _ = clock.New(e.machine.Source(), saved)
	e.open()
	synctest.Wait()
}

// TestClockStepsEndNoSession checks that a session, a will and a message end when their time has elapsed, not before,
// whatever steps the wall clock makes.
func TestClockStepsEndNoSession(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*clockEnv, time.Duration){"running": (*clockEnv).step, "at a start": (*clockEnv).restart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onAClock(t, func(e *clockEnv, by time.Duration) {
				minute := func(a *Attach) { a.Expiry = time.Minute }
				c, _ := e.attach("svc", minute)
				c.subscribe(sub("t", 1))
				c.detach(false)
				e.attach("gone", minute, func(a *Attach) {
					a.NotAfter = e.machine.Wall().Add(time.Hour)
					a.Will = &Will{Topic: "will", Payload: []byte("w"), QoS: 1, Delay: 50 * time.Second}
				})
				e.m.lookup("gone").link.conn.(*conn).detach(false) //nolint:forcetypeassert // of this test
				e.publish(message.Record{Topic: "t", QoS: 1, Payload: []byte("a"), Props: message.Properties{Expiry: 55, HasExpiry: true}})
				pass(2 * time.Second)
				set(e, by)
				pass(40 * time.Second)
				set(e, -by)
				pass(5 * time.Second)
				if n := len(e.journal.topics(2)); n != 0 {
					e.t.Errorf("%d wills too early", n)
				}
				if info, ok := e.m.Get("gone"); !ok || !info.HasWill {
					e.t.Errorf("%+v %v", info, ok)
				}
				c, present := e.attach("svc", minute)
				if !present {
					e.t.Fatal("the session is gone")
				}
				if f := c.expect("t=a q1 #1"); *f[0].props.MessageExpiry != 8 {
					e.t.Errorf("the message has %d s left", *f[0].props.MessageExpiry)
				}
				pass(20 * time.Second)
				if n := len(e.journal.topics(2)); n != 1 {
					e.t.Errorf("%d wills", n)
				}
				if _, ok := e.m.Get("gone"); ok {
					e.t.Error("the session is there after its expiry")
				}
			})
		})
	}
}

// TestStampsAreTheWallClocks checks that displayed times, past and future, are those of the wall clock.
func TestStampsAreTheWallClocks(t *testing.T) {
	t.Parallel()
	onAClock(t, func(e *clockEnv, by time.Duration) {
		var at time.Time
		e.m.OnPresence(func(p Presence) { at = p.At })
		e.step(by)
		pass(time.Minute)
		c, _ := e.attach("svc", func(a *Attach) { a.Expiry = time.Hour })
		if now := e.machine.Wall().Truncate(time.Millisecond); !at.Equal(now) {
			e.t.Errorf("presence at %v, the clock shows %v", at, now)
		}
		c.detach(false)
		info, _ := e.m.Get("svc")
		if now := e.machine.Wall().Truncate(time.Millisecond); !info.Since.Equal(now) || !info.EndsAt.Equal(now.Add(time.Hour)) {
			e.t.Errorf("since %v, ends %v, the clock shows %v", info.Since, info.EndsAt, now)
		}
	})
}

package app

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/alicebob/miniredis/v2/server"

	"cellgate/broker/cell"
	"cellgate/broker/session"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// ends returns the disconnected events of a vehicle by epoch, once there are n.
func (r *rig) ends(vin string, n int) map[int64][]presenceRecord {
	r.t.Helper()
	var all map[int64][]presenceRecord
	check.Within(r.t, check.Patience, "ends", func() error {
		all = map[int64][]presenceRecord{}
		for _, e := range r.events(vin, n) {
			if e.Event == "disconnected" {
				all[e.Epoch] = append(all[e.Epoch], e)
			}
		}
		if len(all) < n {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	return all
}

// lost creates a session of a gateway whose entry expires after ttl.
func (r *rig) lost(vin string, ttl time.Duration) cell.Connection {
	r.t.Helper()
	gone := cell.Gateway{Node: "gw-9", Boot: "b9", Dir: "d9", Mode: "several", Start: time.Now(), Runs: "{}"}
	store := r.gw[0].member.store
	_, _, err := store.Alive(r.t.Context(), gone, ttl)
	check.OK(r.t, err)
	c := cell.Connection{Node: gone.Node, Boot: gone.Boot, Number: 1}
	got, err := store.Claim(r.t.Context(), vin, c, 0, true)
	check.OK(r.t, err)
	c.Epoch = got.Epoch
	return c
}

// TestEndNumberedByTheDead: a survivor publishes an end that a killed gateway had numbered but not published.
func TestEndNumberedByTheDead(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	c := r.lost(roamer, 4*time.Second)
	_, _, err := r.gw[0].member.store.Presence(t.Context(), roamer, c, "disconnected", "keepalive", time.Now(), 0)
	check.OK(t, err)
	if e := r.ends(roamer, 1)[c.Epoch]; len(e) != 1 || e[0].Reason != "keepalive" || e[0].Node != "gw-9" {
		t.Errorf("%+v", e)
	}
}

// TestEndUnconfirmed: an end that could not be confirmed is tried again.
func TestEndUnconfirmed(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	var refused atomic.Int32
	r.redis.Server().SetPreHook(func(c *wire.Peer, cmd string, args ...string) bool {
		if !strings.HasPrefix(cmd, "EVAL") || !strings.Contains(strings.Join(args, " "), "gateway_lost") || refused.Add(1) > 3 {
			return false
		}
		c.WriteError("ERR not now")
		return true
	})
	c := r.lost(roamer, 4*time.Second)
	if e := r.ends(roamer, 1)[c.Epoch]; len(e) != 1 || e[0].Reason != "gateway_lost" {
		t.Errorf("%+v", e)
	}
	if refused.Load() <= 3 {
		t.Errorf("%d calls", refused.Load())
	}
}

// TestEndForgottenByRedis: a session ends while Redis is away, and its gateway stops. The next boot publishes the end,
// though Redis has lost the session and another gateway has the vehicle.
func TestEndForgottenByRedis(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	c := r.connect(0, roamer, mqtt.V5)
	c.Subscribe(mqtt.Filter("v1/"+roamer+"/cmd/#", 1))
	ready := r.events(roamer, 2)[1]
	epoch := ready.Epoch
	r.redis.SetError("LOADING")
	check.Eventually(t, "Redis away", r.gw[0].member.allAway)
	c.Disconnect()
	halt(t, r.gw[0])
	r.redis.FlushAll()
	r.redis.SetError("")
	r.connect(1, roamer, mqtt.V5)
	again, _ := boot(t, r.files[0])
	e := r.ends(roamer, 1)[epoch]
	if len(e) != 1 || e[0].Reason != "gateway_lost" || e[0].Node != "gw-1" || e[0].Seq != ready.Seq+1 {
		t.Errorf("%+v", e)
	}
	check.Within(t, check.Patience, "nothing is left", func() error {
		if last, known := again.presence.Last(roamer); known {
			return fmt.Errorf("%+v", last)
		}
		return nil
	})
}

// TestEndOfAForgottenClaim: when Redis has lost a claim, the connection gets a new session in the cell and the previous
// one ends.
func TestEndOfAForgottenClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	c := r.connect(0, roamer, mqtt.V5)
	c.Subscribe(mqtt.Filter("v1/"+roamer+"/cmd/#", 1))
	ready := r.events(roamer, 2)[1]
	epoch := ready.Epoch
	r.redis.SetError("LOADING")
	check.Eventually(t, "Redis away", r.gw[0].member.allAway)
	r.redis.FlushAll()
	r.redis.SetError("")
	if e := r.ends(roamer, 1)[epoch]; len(e) != 1 || e[0].Reason != "lost" || e[0].Seq != ready.Seq+1 {
		t.Errorf("%+v", e)
	}
	events := r.events(roamer, 5)
	if last := events[len(events)-1]; last.Epoch <= epoch || last.Event != "ready" {
		t.Errorf("%+v", events)
	}
	c.Ping()
}

// TestOldBackup: after a restore of an old backup, ends that were published are not published again, and sequences do
// not go back.
func TestOldBackup(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	const other = "LROAM000000000002"
	keys := []string{cell.Prefix + "{" + roamer + "}:vehicle", cell.Prefix + "{" + other + "}:vehicle", cell.Prefix + "cell-1:sessions"}
	stays := r.connect(0, other, mqtt.V5)
	r.events(other, 1)
	c := r.connect(0, roamer, mqtt.V5)
	r.events(roamer, 1)
	backup := map[string][]string{}
	for _, key := range keys {
		fields, err := r.redis.HKeys(key)
		check.OK(t, err)
		for _, f := range fields {
			backup[key] = append(backup[key], f, r.redis.HGet(key, f))
		}
	}
	stays.Subscribe(mqtt.Filter("v1/"+other+"/cmd/#", 1))
	c.Disconnect()
	before := r.events(roamer, 2)
	ready := r.events(other, 2)[1]
	republishAfter := func() (some []string) {
		for one, err := range r.gw[0].member.store.Sessions(t.Context(), 0) {
			check.OK(t, err)
			some = append(some, one.VIN)
		}
		return some
	}
	check.Within(t, check.Patience, "the end to be told", func() error {
		if some := republishAfter(); len(some) != 1 {
			return fmt.Errorf("%v", some)
		}
		return nil
	})
	third := r.connect(0, "LROAM000000000003", mqtt.V5)
	unknown := r.events("LROAM000000000003", 1)[0]
	mark := cell.Prefix + "cell-1:mark"
	r.redis.HSet(mark, "n", fmt.Sprint(unknown.Epoch-1), "served", "another")
	for key, fields := range backup {
		r.redis.Del(key)
		r.redis.HSet(key, fields...)
	}
	r.redis.HSet(cell.Prefix+"{LROAM000000000003}:vehicle", "epoch", fmt.Sprint(unknown.Epoch+1)) // another claim is there already
	third.Disconnect()
	if e := r.ends("LROAM000000000003", 1)[unknown.Epoch]; len(e) != 1 {
		t.Errorf("the end of a session that the backup does not have: %+v", e)
	}
	r.lost("LLOST000000000001", 2*time.Second) // after that the gateways look who is missing
	check.Within(t, check.Patience, "Redis to have one session", func() error {
		if some := republishAfter(); len(some) != 1 || some[0] != other {
			return fmt.Errorf("%v", some)
		}
		return nil
	})
	stays.Disconnect()
	if e := r.ends(other, 1)[ready.Epoch]; len(e) != 1 || e[0].Seq <= ready.Seq {
		t.Errorf("%+v after %+v", e, ready)
	}
	if after := r.events(roamer, 2); len(after) != len(before) {
		t.Errorf("%+v, before %+v", after, before)
	}
}

// TestEndReportedLate: the end of a connection is reported after the vehicle's next connection has claimed it. Each session has
// its own end.
func TestEndReportedLate(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	c := r.gw[0].claims
	event := func(claim uint64, connected bool, reason session.Reason) {
		c.presenceReported(&session.Presence{Key: roamer, Vehicle: true, Claim: claim, Connected: connected, At: time.Now(), Reason: reason})
	}
	first := c.Claim(t.Context(), roamer)
	event(first.Number, true, "")
	c.Attached(roamer, first.Number)
	r.events(roamer, 1) // numbered: otherwise only the end is published
	second := c.Claim(t.Context(), roamer)
	event(first.Number, false, session.ReasonLost)
	event(second.Number, true, "")
	c.Attached(roamer, second.Number)
	r.events(roamer, 3)
	event(second.Number, false, session.ReasonClient)
	var got []string
	epochs := map[int64]int{}
	for _, e := range r.events(roamer, 4) {
		got = append(got, e.Event+" "+e.Reason)
		epochs[e.Epoch]++
	}
	if want := []string{"connected ", "disconnected lost", "connected ", "disconnected client"}; !slices.Equal(got, want) || len(epochs) != 2 {
		t.Errorf("%q in %d sessions", got, len(epochs))
	}
}

// TestEndOfALostConnection: the end of a connection is published whatever became of the vehicle meanwhile: its next connections here have
// been refused, because it has a younger one at another gateway, or have failed; or another gateway has taken it over before the CONNECT was
// answered.
func TestEndOfALostConnection(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(r *rig, c *claims, first session.Claim){
		"refused": func(r *rig, c *claims, first session.Claim) {
			c.Attached(roamer, first.Number)
			r.redis.HSet(cell.Prefix+"{"+roamer+"}:vehicle", "node", "gw-9", "since", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()))
			c.Claim(t.Context(), roamer)
			if c.here(roamer) {
				t.Error("the vehicle is here")
			}
		},
		"never attached": func(_ *rig, c *claims, first session.Claim) {
			c.Attached(roamer, first.Number)
			c.Claim(t.Context(), roamer)
			c.Claim(t.Context(), roamer)
		},
		"taken over": func(_ *rig, c *claims, first session.Claim) {
			c.onNotice(t.Context(), fmt.Sprintf("%d %d %s", first.Epoch()+1, time.Now().Add(time.Hour).UnixMilli(), roamer))
			if c.Attached(roamer, first.Number) || c.here(roamer) {
				t.Error("the vehicle is here")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 1)
			c := r.gw[0].claims
			event := func(claim uint64, connected bool, reason session.Reason) {
				c.presenceReported(&session.Presence{Key: roamer, Vehicle: true, Claim: claim, Connected: connected, At: time.Now(), Reason: reason})
			}
			first := c.Claim(t.Context(), roamer)
			event(first.Number, true, "")
			r.events(roamer, 1) // numbered: otherwise only the end is published
			meanwhile(r, c, first)
			event(first.Number, false, session.ReasonTakeover)
			ends := r.ends(roamer, 1)
			if all := ends[int64(first.Epoch())]; len(all) != 1 || all[0].Reason != string(session.ReasonTakeover) {
				t.Errorf("%+v", ends)
			}
		})
	}
}

// TestEndBeforeAnotherEpoch: a connection ends while its claim, which Redis has lost, gets another epoch. The end of the session before
// is published first; that of the outbox's last session only is known here.
func TestEndBeforeAnotherEpoch(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	c, m := r.gw[0].claims, r.gw[0].member
	first := c.Claim(t.Context(), roamer)
	event := func(connected bool) {
		c.presenceReported(&session.Presence{Key: roamer, Vehicle: true, Claim: first.Number, Connected: connected, At: time.Now(), Reason: session.ReasonClient})
	}
	event(true)
	c.Attached(roamer, first.Number)
	connected := r.events(roamer, 1)[0]
	before := connected.Epoch

	// Redis has lost the session: what claims.ask does until it queues the end.
	one, _ := c.of(roamer)
	c.renew(one)
	_, conn := c.of(roamer)
	got, err := m.store.Claim(t.Context(), roamer, conn, 0, true)
	check.OK(t, err)
	r.redis.HDel("cellgate:cell-1:sessions", fmt.Sprintf("%s/%d", roamer, before))
	r.redis.HSet("cellgate:cell-1:mark", "was", fmt.Sprint(before-1), "turned", fmt.Sprint(connected.Seq+1))
	c.mu.Lock()
	one.turning, one.conn.Epoch = true, got.Epoch
	c.mu.Unlock()
	event(false)
	c.presence.numberAll()
	c.claimed(one, before, false)
	ends := r.ends(roamer, 2)
	if len(ends[before]) != 1 || len(ends[got.Epoch]) != 1 {
		t.Errorf("%+v", ends)
	}
}

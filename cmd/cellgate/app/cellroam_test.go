package app

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"cellgate/auth"
	"cellgate/broker/cell"
	"cellgate/configs/authority"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// rig is a cell of several gateways in this process.
type rig struct {
	t     *testing.T
	redis *miniredis.Miniredis
	kafka *harness.Kafka
	files []string
	gw    []*App
	logs  []*check.Log // of every start
}

func newRig(t *testing.T, n int) *rig {
	t.Helper()
	return newRigWith(t, n, "rules: []\n")
}

// newRigWith is newRig with rules.
func newRigWith(t *testing.T, n int, rules string) *rig {
	t.Helper()
	server := miniredis.RunT(t)
	return newRigAt(t, n, rules, server, server.Addr())
}

// newRigAt is newRigWith with a Redis that the gateways reach at addr.
func newRigAt(t *testing.T, n int, rules string, server *miniredis.Miniredis, addr string) *rig {
	t.Helper()
	r := &rig{t: t, redis: server, kafka: harness.EmbeddedKafka(t)}
	for i := range n {
		file := place(t, fmt.Sprintf("gw-%d", i+1), "several", addr)
		check.Write(t, filepath.Join(filepath.Dir(file), "rules", "none.rules.yaml"), rules)
		check.Replace(t, file, `{name: local, address: "127.0.0.1:0"}`, `{name: local, address: "127.0.0.1:0", anonymous_role: vehicle}, {name: services, address: "127.0.0.1:0"}`)
		text := check.Read(t, file)
		_, rest, _ := strings.Cut(string(text), "kafka: {brokers: [")
		old, _, _ := strings.Cut(rest, "]")
		check.Replace(t, file, "kafka: {brokers: ["+old+"], timeout: 1s}\nredis", `kafka: {brokers: ["`+r.kafka.Brokers[0]+`"], auto_create_topics: true}`+"\nredis")
		_, rest, _ = strings.Cut(string(text), "\ncentral:")
		central, _, _ := strings.Cut(rest, "\n")
		check.Replace(t, file, "\ncentral:"+central, "")
		a, log := boot(t, file)
		r.files, r.gw, r.logs = append(r.files, file), append(r.gw, a), append(r.logs, log)
	}
	for _, a := range r.gw {
		r.patient(a)
	}
	return r
}

// patient makes a gateway wait longer for Redis, for busy machines.
func (r *rig) patient(a *App) {
	r.t.Helper()
	a.claims.wait.Store(int64(time.Minute))
	a.moves.wait.Store(int64(time.Minute))
	a.asks.limit.Store(int64(time.Minute))
	check.Within(r.t, check.Patience, "Redis is known to be there", func() error {
		if a.member.allAway() {
			return errCellAway
		}
		return nil
	})
}

// start starts a gateway that has stopped.
func (r *rig) start(gw int) {
	r.t.Helper()
	a, log := boot(r.t, r.files[gw])
	r.gw[gw], r.logs = a, append(r.logs, log)
	r.patient(r.gw[gw])
}

// connect opens a connection that keeps its session.
func (r *rig) connect(gw int, vin string, version byte) *mqtt.T {
	r.t.Helper()
	c := mqtt.DialT(r.t, r.gw[gw].Addrs()["local"].String(), version, nil)
	o := mqtt.Connect{Version: version, ID: vin, Keep: true, Keepalive: 600}
	if version == mqtt.V5 {
		o.Props = [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)}
	}
	c.Open(o)
	return c
}

// events returns the vehicle.presence events of a vehicle in the order of (epoch, seq), once there are n different
// ones.
func (r *rig) events(vin string, n int) []presenceRecord {
	r.t.Helper()
	var out []presenceRecord
	check.Within(r.t, check.Patience, "presence", func() error {
		out = nil
		seen := map[presenceRecord]bool{}
		for _, rec := range r.kafka.Read(topicPresence) {
			var e presenceRecord
			check.OK(r.t, json.Unmarshal(rec.Value, &e))
			if e.VIN == vin && !seen[e] {
				seen[e] = true
				out = append(out, e)
			}
		}
		slices.SortFunc(out, func(a, b presenceRecord) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq)) })
		if len(out) < n {
			return fmt.Errorf("%d events: %+v", len(out), out)
		}
		return nil
	})
	return out
}

// presenceRecord is an event of vehicle.presence.
type presenceRecord struct {
	VIN, Node, Event, Reason string
	Epoch                    int64
	Seq                      uint64
}

const roamer = "LROAM000000000001"

// TestRoaming: a vehicle that connects to another gateway loses its first connection and keeps its session. Its
// presence is correct and in order.
func TestRoaming(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	first := r.connect(0, roamer, mqtt.V5)
	first.Subscribe(mqtt.Filter("v1/"+roamer+"/cmd/#", 1))
	r.events(roamer, 2) // if a connection ends before its events are numbered, only its end is published
	second := r.connect(1, roamer, mqtt.V5)
	if second.Ack.Present != 1 {
		t.Errorf("the session is not present at the other gateway: %v", second.Ack)
	}
	first.ExpectEnd(0x8E)
	info, known := r.gw[1].sessions.Get(roamer)
	if !known || len(info.Subscriptions) != 1 || !info.Ready {
		t.Errorf("its session there: %+v", info)
	}
	check.Within(t, check.Patience, "the first gateway drops what it has", func() error {
		if info, known := r.gw[0].sessions.Get(roamer); known {
			return fmt.Errorf("it has %+v", info)
		}
		return nil
	})
	r.events(roamer, 5)
	third := r.connect(0, roamer, mqtt.V5) // and back
	if third.Ack.Present != 1 {
		t.Errorf("back at the first one: %v", third.Ack)
	}
	second.ExpectEnd(0x8E)
	r.events(roamer, 8)
	third.Disconnect()
	var got []string
	for _, e := range r.events(roamer, 9) {
		got = append(got, fmt.Sprintf("%s %s %s", e.Node, e.Event, e.Reason))
	}
	want := []string{
		"gw-1 connected ", "gw-1 ready ", "gw-1 disconnected takeover", "gw-2 connected ", "gw-2 ready ", "gw-2 disconnected takeover",
		"gw-1 connected ", "gw-1 ready ", "gw-1 disconnected client",
	}
	if !slices.Equal(got, want) {
		t.Errorf("presence tells\n%s", strings.Join(got, "\n"))
	}
	if v, verdict, err := r.gw[1].member.store.Vehicle(t.Context(), roamer); err != nil || verdict != cell.OK || v.Event != "disconnected" || v.Reason != "client" {
		t.Errorf("Redis shows %+v %v %v", v, verdict, err)
	}
}

// TestWillOfAMovedVehicle: a vehicle goes to another gateway while its first one is stopped. When that one starts again
// it does not send the vehicle's will.
func TestWillOfAMovedVehicle(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	c := mqtt.DialT(t, r.gw[0].Addrs()["local"].String(), mqtt.V5, nil)
	c.Open(mqtt.Connect{
		Version: mqtt.V5, ID: roamer, Keep: true, Keepalive: 600, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)},
		Will: &mqtt.Will{Topic: "v1/" + roamer + "/up/bye", Payload: "{}", QoS: 1, Props: [][]byte{mqtt.Number(mqtt.WillDelay, 600)}},
	})
	halt(t, r.gw[0])
	r.connect(1, roamer, mqtt.V5)
	r.start(0)
	check.Within(t, check.Patience, "its will and its session are dropped", func() error {
		if info, known := r.gw[0].sessions.Get(roamer); known {
			return fmt.Errorf("it has %+v", info)
		}
		return nil
	})
	if n := r.counted(r.gw[0], `wills_total{cell="cell-1",result="cancelled"}`); n != 1 {
		t.Errorf("%v wills cancelled", n)
	}
}

// TestTaken: another gateway's claim ends the connection here, even if that gateway missed the answer, or the notice
// comes while this one waits for its own answer. The claim of an older connection ends nothing: this gateway claims
// again.
func TestTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	a := r.gw[0]
	other := cell.Connection{Node: "gw-9", Boot: "b9"}
	take := func(age time.Duration) {
		one, _ := a.claims.of(roamer)
		check.Eventually(t, "another time: of two claims in a millisecond neither is the younger", func() bool { return time.Since(one.began) > 50*time.Millisecond })
		other.Number++
		_, err := a.member.store.Claim(t.Context(), roamer, other, age, false)
		check.OK(t, err)
	}
	claimed := func() error {
		if _, known := a.claims.connection(roamer); !known {
			return errors.New("not claimed")
		}
		return nil
	}
	first := r.connect(0, roamer, mqtt.V5)
	check.Within(t, time.Minute, "the claim", claimed)
	take(0)
	first.ExpectEnd(0x8E)

	second := r.connect(0, roamer, mqtt.V5)
	check.Within(t, time.Minute, "the claim", claimed)
	one, _ := a.claims.of(roamer)
	check.Eventually(t, "the session to be stored, which would find out that the vehicle is elsewhere", func() bool {
		data, _, _ := a.claims.sessions.Portable(roamer)
		a.claims.mu.Lock()
		defer a.claims.mu.Unlock()
		_, busy := a.claims.underWay[roamer]
		return a.claims.dirty[roamer] == nil && !busy && one.stored == a.claims.hash(data) && !one.asking
	})
	asking := func(on bool) {
		a.claims.mu.Lock()
		one.asking = on
		a.claims.mu.Unlock()
	}
	asking(true)
	take(0)
	check.Eventually(t, "the notice", func() bool {
		a.claims.mu.Lock()
		defer a.claims.mu.Unlock()
		return one.taken.Epoch != 0
	})
	second.Ping()
	asking(false)
	a.claims.ask(t.Context(), one)
	second.ExpectEnd(0x8E)

	third := r.connect(0, roamer, mqtt.V5)
	check.Within(t, time.Minute, "the claim", claimed)
	before, _ := a.claims.connection(roamer)
	r.redis.Del(cell.Prefix + "{" + roamer + "}:vehicle")
	r.redis.HSet(cell.Prefix+"{"+roamer+"}:vehicle", "node", "gw-1", "boot", "b0", "conn", "1", "epoch", "1", "since", "1")
	other.Epoch = before.Epoch // of a build whose epochs were the times of claims
	take(time.Hour)
	check.Within(t, time.Minute, "the younger connection to be claimed again", func() error {
		if now, known := a.claims.connection(roamer); !known || now.Epoch <= before.Epoch {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	third.Ping()
}

// TestLastRecordsOfAMovedConnection: records have the epoch of their connection. What a gateway journals of a connection after
// another gateway has the vehicle is before the records of the connection there.
func TestLastRecordsOfAMovedConnection(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, 2, "rules:\n  - id: all\n    from: [\"v1/+/up/#\"]\n    to: [{kafka: {topic: up}}]\n")
	claimed := func(gw int) (one *claim, conn cell.Connection) {
		check.Within(t, check.Patience, "the claim", func() error {
			if one, conn = r.gw[gw].claims.of(roamer); one == nil || conn.Epoch == 0 {
				return errors.New("not claimed")
			}
			return nil
		})
		return one, conn
	}
	c := r.connect(0, roamer, mqtt.V5)
	first, conn := claimed(0)
	c.Publish(mqtt.Publish{Topic: "v1/" + roamer + "/up/telemetry", Payload: "{}", QoS: 1})
	check.Within(t, check.Patience, "the record", func() error {
		if all := r.kafka.Read("up"); len(all) != 1 || all[0].Headers["epoch"] != fmt.Sprint(conn.Epoch) {
			return fmt.Errorf("%+v, want epoch %d", all, conn.Epoch)
		}
		return nil
	})
	r.connect(1, roamer, mqtt.V5)
	c.ExpectEnd(0x8E)
	<-first.over
	_, second := claimed(1)
	if epoch := r.gw[0].claims.epoch(first); epoch >= uint64(second.Epoch) {
		t.Errorf("epoch %d, and %d at the other gateway", epoch, second.Epoch)
	}
}

// TestIdentifierReused: the cell's session has a QoS 2 identifier that the vehicle has released at a gateway which could not store that. The
// vehicle uses it for another message at the next gateway, which accepts it.
func TestIdentifierReused(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, 2, "rules:\n  - id: all\n    from: [\"v1/+/up/#\"]\n    to: [{kafka: {topic: up}}]\n")
	const id = 7
	begin := func(c *mqtt.T, text string) {
		c.Send(mqtt.Publish{Topic: "v1/" + roamer + "/up/telemetry", Payload: text, QoS: 2, ID: id}.Encode(mqtt.V5))
		c.Await(mqtt.PUBREC, id)
	}
	end := func(c *mqtt.T) {
		c.Send(mqtt.Ack(mqtt.PUBREL, id, 0))
		c.Await(mqtt.PUBCOMP, id)
	}
	stored := func() (session []byte) {
		check.Within(t, check.Patience, "the session in Redis", func() error {
			v, _, err := r.gw[0].member.store.Vehicle(t.Context(), roamer)
			if now, _, _ := r.gw[0].sessions.Portable(roamer); err != nil || !bytes.Equal(v.Session, now) {
				return fmt.Errorf("%x, want %x, %w", v.Session, now, err)
			}
			session = v.Session
			return nil
		})
		return session
	}
	first := r.connect(0, roamer, mqtt.V5)
	begin(first, "one")
	before := stored()
	end(first)
	stored()
	r.redis.HSet(cell.Prefix+"{"+roamer+"}:vehicle", "session", string(before))
	second := r.connect(1, roamer, mqtt.V5)
	begin(second, "two")
	end(second)
	check.Within(t, check.Patience, "both messages", func() error {
		if all := r.kafka.Read("up"); len(all) != 2 || string(all[0].Value) == string(all[1].Value) {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
}

// TestIdentifierOfAnEarlierVisit: a gateway that lost a vehicle while Redis was away still has its session, with a QoS 2 identifier. The vehicle got
// a new session elsewhere. When it returns, it uses the identifier for another message, which is accepted.
func TestIdentifierOfAnEarlierVisit(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, 2, "rules:\n  - id: all\n    from: [\"v1/+/up/#\"]\n    to: [{kafka: {topic: up}}]\n")
	publish := func(gw int, text string) *mqtt.T {
		c := r.connect(gw, roamer, mqtt.V5)
		c.Send(mqtt.Publish{Topic: "v1/" + roamer + "/up/telemetry", Payload: text, QoS: 2, ID: 7}.Encode(mqtt.V5))
		c.Await(mqtt.PUBREC, 7)
		return c
	}
	publish(0, "one")
	r.redis.SetError("LOADING")
	for _, a := range r.gw {
		check.Within(t, check.Patience, "Redis is known to be away", func() error {
			if !a.member.allAway() {
				return errCellClosed
			}
			return nil
		})
	}
	if publish(1, "two").Ack.Present != 0 {
		t.Error("the other gateway has a session")
	}
	if publish(0, "three").Ack.Present != 1 {
		t.Error("the first gateway has no session")
	}
	check.Within(t, check.Patience, "all messages", func() error {
		if all := r.kafka.Read("up"); len(all) != 3 {
			return fmt.Errorf("%d messages", len(all))
		}
		return nil
	})
}

// TestStoredAfterTheJournal: a session with a QoS 2 identifier is not stored in the cell before its message is durable. A gateway that
// loses its power would otherwise leave an identifier whose message is lost, and the next one would take the repeat for a duplicate.
func TestStoredAfterTheJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	claims, synced := r.gw[0].claims, make(chan struct{})
	waiting := make(chan struct{})
	seen := sync.OnceFunc(func() { close(waiting) })
	claims.durable = func(ctx context.Context, seq uint64) error {
		if seq == 0 {
			return nil
		}
		seen()
		select {
		case <-synced:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	stored := func() []byte {
		v, _, err := r.gw[0].member.store.Vehicle(t.Context(), roamer)
		check.OK(t, err)
		return v.Session
	}
	const form, withIdentifiers = 0, 2
	r.connect(0, roamer, mqtt.V5).Send(mqtt.Publish{Topic: "v1/" + roamer + "/up/telemetry", Payload: "one", QoS: 2, ID: 7}.Encode(mqtt.V5))
	<-waiting
	if s := stored(); len(s) > 0 && s[form] == withIdentifiers {
		t.Errorf("%x is stored before the journal is durable", s)
	}
	close(synced)
	check.Within(t, check.Patience, "the session with its identifier", func() error {
		if s := stored(); len(s) == 0 || s[form] != withIdentifiers {
			return fmt.Errorf("%x", s)
		}
		return nil
	})
}

// TestAwayRedis: without Redis vehicles are served with local state. When it is back, late claims are made and the
// younger connection stays.
func TestAwayRedis(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	first := r.connect(0, roamer, mqtt.V5)
	first.Subscribe(mqtt.Filter("v1/"+roamer+"/cmd/#", 1))
	r.redis.SetError("LOADING")
	for _, a := range r.gw {
		check.Within(t, check.Patience, "Redis is known to be away", func() error {
			if !a.member.allAway() {
				return errCellClosed
			}
			return nil
		})
	}
	second := r.connect(1, roamer, mqtt.V5)
	if second.Ack.Present != 0 {
		t.Error("a session that nobody here knows is present")
	}
	second.Subscribe(mqtt.Filter("v1/"+roamer+"/cmd/#", 1), mqtt.Filter("v1/"+roamer+"/sys/#", 1))
	first.Ping()
	r.redis.SetError("")
	first.ExpectEnd(0x8E)
	second.Ping()
	check.Within(t, check.Patience, "the younger connection has the vehicle", func() error {
		if conn, held := r.gw[1].claims.connection(roamer); !held || conn.Node != "gw-2" {
			return fmt.Errorf("held %v %+v", held, conn)
		}
		return nil
	})
	check.Within(t, check.Patience, "the session of the younger connection is stored", func() error {
		v, _, err := r.gw[0].member.store.Vehicle(t.Context(), roamer)
		if err == nil && !strings.Contains(string(v.Session), "/sys/#") {
			err = fmt.Errorf("it is %q", v.Session)
		}
		return err
	})
}

// TestGatewayLost: a survivor publishes the ends of a dead gateway's vehicles unless they are back, and an end that was
// recorded but not published.
func TestGatewayLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	gone := cell.Gateway{Node: "gw-9", Boot: "b9", Dir: "d9", Mode: "several", Start: time.Now(), Runs: "{}"}
	store := r.gw[0].member.store
	_, _, err := store.Alive(t.Context(), gone, 8*time.Second)
	check.OK(t, err)
	dead := func(vin string) cell.Connection {
		c := cell.Connection{Node: gone.Node, Boot: gone.Boot, Number: 1}
		got, err := store.Claim(t.Context(), vin, c, 0, true)
		check.OK(t, err)
		c.Epoch = got.Epoch
		return c
	}
	back, lost, said := "LBACK000000000001", "LLOST000000000001", "LSAID000000000001"
	dead(back)
	dead(lost)
	_, _, err = store.Presence(t.Context(), said, dead(said), "disconnected", "keepalive", time.Now().Add(-time.Hour), 0)
	check.OK(t, err)
	c := r.connect(0, back, mqtt.V5)
	for vin, want := range map[string]string{lost: "gw-9 disconnected gateway_lost", said: "gw-9 disconnected keepalive"} {
		if e := r.events(vin, 1)[0]; fmt.Sprintf("%s %s %s", e.Node, e.Event, e.Reason) != want {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	events := r.events(back, 2)
	if events[0].Event != "disconnected" || events[0].Reason != "gateway_lost" || events[1].Event != "connected" {
		t.Errorf("of the one that came back: %+v", events)
	}
	check.Within(t, check.Patience, "all is told", func() error {
		for one, err := range store.Sessions(t.Context(), 0) {
			if err != nil || one.Node != "gw-1" {
				return fmt.Errorf("%+v %w", one, errors.Join(err, errCellClosed))
			}
		}
		return nil
	})
	c.Ping()
}

// TestPeerKeys: each gateway signs with its own key and all accept it. Write access to Redis is not enough to add a
// key. Known keys survive a loss of Redis and a restart.
func TestPeerKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	issue := func(a *App) []byte {
		token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: roamer, Role: auth.RoleVehicle})
		check.OK(t, err)
		return []byte(token)
	}
	accepts := func(a *App, token []byte) error {
		_, err := a.Authority().Verify(token, auth.Peer{})
		return err
	}
	for i := range r.gw {
		check.Within(t, check.Patience, "the other's token is accepted", func() error { return accepts(r.gw[i], issue(r.gw[1-i])) })
	}
	forger, err := auth.Open(r.gw[0].forgery(t))
	check.OK(t, err)
	defer forger.Close(t.Context()) //nolint:errcheck // a test's
	forged, _, err := forger.Issue(auth.IssueRequest{Subject: roamer, Role: auth.RoleVehicle})
	check.OK(t, err)
	keys, err := forger.PublicKeys()
	check.OK(t, err)
	body, err := json.Marshal(heldKeys{Version: 1 << 60, Node: "gw-2", Keys: keys})
	check.OK(t, err)
	text, err := json.Marshal(signed{Body: body, Sum: strings.Repeat("0", 64)})
	check.OK(t, err)
	check.OK(t, r.gw[0].member.store.Publish(t.Context(), "forged", text))
	check.OK(t, r.gw[0].member.store.Publish(t.Context(), r.gw[1].member.self.Dir, text))
	check.OK(t, r.gw[0].keys.exchange(t.Context()))
	if accepts(r.gw[0], []byte(forged)) == nil {
		t.Error("a key without the join key's signature is believed")
	}
	theirs := issue(r.gw[1])
	halt(t, r.gw[1])
	halt(t, r.gw[0])
	r.redis.FlushAll()
	again, _ := boot(t, r.files[0])
	check.OK(t, accepts(again, theirs))
}

// forgery is a configuration of another authority that calls itself the cell's.
func (a *App) forgery(t *testing.T) auth.Config {
	t.Helper()
	c := authority.Config(a.cfg)
	c.Dir, c.Log, c.Metrics, c.Now = t.TempDir(), slog.New(slog.DiscardHandler), auth.NewMetrics(nil), time.Now
	return c
}

// TestAnyGateway: every gateway answers for every vehicle of the cell, and names what differs between gateways.
func TestAnyGateway(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	c := r.connect(0, roamer, mqtt.V5)
	other := r.connect(1, "LROAM000000000002", mqtt.V5)
	for _, a := range r.gw {
		check.OK(t, a.liveness.beat(t.Context(), check.Patience))
	}
	for _, a := range r.gw {
		check.OK(t, a.liveness.beat(t.Context(), check.Patience))
		token := operator(t, a)
		var page VehiclePage
		if status := get(t, a, "/v1/vehicles?limit=1", token, &page); status != 200 || len(page.Vehicles) != 1 || page.Vehicles[0].VIN != roamer || page.Next != roamer {
			t.Errorf("%s: %d %+v", a.cfg.Cell.Node, status, page)
		}
		page = VehiclePage{}
		get(t, a, "/v1/vehicles?cursor="+roamer, token, &page)
		if len(page.Vehicles) != 1 || page.Vehicles[0].Node != "gw-2" || page.Next != "" || page.Missing != nil {
			t.Errorf("%s: the next page: %+v", a.cfg.Cell.Node, page)
		}
		var v Vehicle
		if status := get(t, a, "/v1/vehicles/"+roamer, token, &v); status != 200 || v.Node != "gw-1" || !v.Connected {
			t.Errorf("%s: %d %+v", a.cfg.Cell.Node, status, v)
		}
		var s Status
		get(t, a, "/v1/status", token, &s)
		if len(s.Gateways) != 2 || s.Gateways[0].Differs != nil || s.Gateways[1].Differs != nil || s.Gateways[0].Address == "" {
			t.Errorf("%s: %+v", a.cfg.Cell.Node, s.Gateways)
		}
	}
	status, _, answer, err := harness.Call(t.Context(), "DELETE", r.gw[1].HTTPURL()+"/v1/vehicles/"+roamer+"/connection", operator(t, r.gw[1]), nil)
	if err != nil || status != 204 {
		t.Errorf("DELETE at the other gateway: %d %s %v", status, answer, err)
	}
	c.ExpectEnd(0x98)
	other.Ping()
	halt(t, r.gw[1])
	check.Replace(t, r.files[1], "rules: {path: rules, watch: false}", "rules: {path: rules, watch: false}\nsessions: {max_inflight: 5}")
	again, _ := boot(t, r.files[1])
	check.Within(t, check.Patience, "the difference is named", func() error {
		var ready readiness
		get(t, r.gw[0], "/readyz", "", &ready)
		for _, d := range ready.Degraded {
			if d.Name == "gateway gw-2" && strings.Contains(d.Reason, "configuration: sessions") {
				return nil
			}
		}
		return fmt.Errorf("%+v, %v", ready, again.gateways())
	})
}

// TestRecordsBeforeTheClaim: records sent before the cell has answered are ordered after those of the previous
// connection and before later ones.
func TestRecordsBeforeTheClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	a, vin := r.gw[0], "LTEST0000000EPOCH"
	claimed := func() error {
		if _, known := a.claims.connection(vin); !known {
			return errors.New("not claimed")
		}
		return nil
	}
	epoch := func() uint64 {
		one, _ := a.claims.of(vin)
		return a.claims.epoch(one)
	}
	r.connect(0, vin, mqtt.V5)
	check.Within(t, time.Minute, "the claim", claimed)
	first := epoch()
	r.redis.SetError("LOADING")
	check.Eventually(t, "Redis away", a.member.allAway)
	r.connect(0, vin, mqtt.V5)
	second := epoch()
	if claimed() == nil {
		t.Fatal("claimed while Redis was away")
	}
	r.redis.SetError("")
	check.Within(t, time.Minute, "the claim", claimed)
	if third := epoch(); first == 0 || second <= first || third <= second {
		t.Errorf("epochs %d, %d, %d", first, second, third)
	}
}

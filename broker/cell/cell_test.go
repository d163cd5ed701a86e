package cell

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/remote"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/test/check"
)

func embedded(t *testing.T) (*Store, *miniredis.Miniredis) {
	t.Helper()
	server := miniredis.RunT(t)
	return storeOf(t, server, "cell-1"), server
}

func storeOf(t *testing.T, server *miniredis.Miniredis, name string) *Store {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = c.Close() })
	s, err := NewStore(c, name, Confirmation{Wait: time.Second}, time.Hour)
	check.OK(t, err)
	return s
}

// TestSlots compares slots with examples from the Redis documentation, and checks that every slot has a tag.
func TestSlots(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]int{"123456789": 0x31C3 % remote.RedisSlots, "foo": 12182, "{foo}.bar": 12182, "x{}y": remote.RedisSlot("x{}y"), "a{}{foo}": remote.RedisSlot("a{}{foo}")} {
		if got := remote.RedisSlot(key); got != want {
			t.Errorf("slot of %q is %d, want %d", key, got, want)
		}
	}
	for slot, tag := range tagsBySlot() {
		if remote.RedisSlot("cellgate:{"+tag+"}:mark") != slot {
			t.Fatalf("tag %q is not of slot %d", tag, slot)
		}
	}
	k := keys{cell: "c", tags: tagsBySlot()}
	for _, vin := range []string{"V", "}", "{", "a}b", "%7D", "{}", "a b"} {
		slot := remote.RedisSlot(k.vehicle(vin))
		for _, key := range []string{k.opened(vin), k.command(vin, "c"), k.slotted("mark", k.vehicle(vin))} {
			if remote.RedisSlot(key) != slot {
				t.Errorf("vin %q: %q is in slot %d, its vehicle in %d", vin, key, remote.RedisSlot(key), slot)
			}
		}
	}
}

// TestDocumented checks that each script documents its keys and answers.
func TestDocumented(t *testing.T) {
	t.Parallel()
	names, err := scriptNames()
	check.OK(t, err)
	for _, name := range names {
		text, err := sources.ReadFile("lua/" + name + ".lua")
		check.OK(t, err)
		head, _, _ := strings.Cut(string(text), "\n\n")
		if !strings.HasPrefix(head, "-- "+name+": ") || !strings.Contains(head, "KEYS: mark") || !strings.Contains(head, "Answer: ") {
			t.Errorf("%s.lua does not tell what it is, its keys and its answers", name)
		}
	}
}

func begun(t *testing.T) *Store {
	t.Helper()
	s, _ := embedded(t)
	if j, err := s.Join(t.Context(), 0, "gw-1", Memory{}, "", true); err != nil || j.Verdict != OK || j.Gen == 0 {
		t.Fatalf("%+v %v", j, err)
	}
	return s
}

// life drives the commands of one vehicle.
type life struct {
	*testing.T
	s *Store
}

func (l life) accept(id string, ttl time.Duration) Answer {
	l.Helper()
	a, err := l.s.Accept(l.Context(), Offered{VIN: "V", ID: id, Digest: "d", TTL: ttl, MaxOpen: 2, Fields: map[string]string{"name": "unlock"}})
	if err != nil {
		l.Fatal(err)
	}
	return a
}

// reports has the vehicle report the first of each step, and compares verdict, state, outcome and result with the
// second.
func (l life) reports(id string, steps ...[2]string) {
	l.Helper()
	for _, step := range steps {
		a, err := l.s.Report(l.Context(), "V", id, Said{Status: step[0], At: time.UnixMilli(5), Payload: []byte(step[0])})
		if err != nil {
			l.Fatal(err)
		}
		if got := string(a.Verdict) + " " + a.Record.State + " " + a.Record.Outcome + " " + a.Record.Result; got != step[1] {
			l.Errorf("%s: %q, want %q", step[0], got, step[1])
		}
	}
}

// TestStates covers what the model leaves out: PUBACK and accepted, late reports, full queues.
func TestStates(t *testing.T) {
	t.Parallel()
	l := life{t, begun(t)}
	claimed, err := l.s.Claim(t.Context(), "V", Connection{Node: "gw-1", Boot: "b", Number: 7}, 0, true)
	check.OK(t, err)
	if a := l.accept("c1", time.Minute); a.Verdict != OK || a.Record.Number != 1 || a.Record.Fields["name"] != "unlock" {
		t.Errorf("%+v", a)
	}
	owner := Connection{Node: "gw-1", Boot: "b", Number: 7, Epoch: claimed.Epoch}
	if a, err := l.s.Send(t.Context(), "V", "c1", owner); err != nil || a.Verdict != OK || a.Record.State != "sent" || a.Record.Sent == 0 {
		t.Errorf("%+v %v", a, err)
	}
	for _, other := range []Connection{{Node: "gw-2", Boot: "b", Epoch: owner.Epoch}, {Node: "gw-1", Boot: "c", Epoch: owner.Epoch}, {Node: "gw-1", Boot: "b", Epoch: 1}} {
		if a, err := l.s.Send(t.Context(), "V", "c1", other); err != nil || a.Verdict != NotOwner {
			t.Errorf("%+v sends: %+v %v", other, a, err)
		}
	}
	l.reports("c1", [2]string{"delivered", "ok delivered  "}, [2]string{"accepted", "ok accepted  accepted"},
		[2]string{"delivered", "already accepted  accepted"}, [2]string{"failed", "ok failed  failed"}, [2]string{"succeeded", "already failed  failed"})
	l.accept("c2", time.Minute)
	l.accept("c3", time.Millisecond)
	if a := l.accept("c4", time.Minute); a.Verdict != Full {
		t.Errorf("a third open command of two: %+v", a)
	}
	check.Eventually(t, "c3 to expire", func() bool {
		a, err := l.s.Expire(t.Context(), "V", "c3")
		return err == nil && a.Verdict == OK && a.Record.Cause == "not_sent"
	})
	l.reports("c3", [2]string{"delivered", "already expired  "}, [2]string{"accepted", "ok late accepted accepted"},
		[2]string{"succeeded", "ok late succeeded succeeded"}, [2]string{"failed", "already late succeeded succeeded"})
	if a := l.accept("c4", time.Minute); a.Verdict != OK {
		t.Errorf("a command in the place of one that ended: %+v", a)
	}
}

// TestReserve checks that an id belongs to one command.
func TestReserve(t *testing.T) {
	t.Parallel()
	s := begun(t)
	for _, step := range []struct {
		vin, digest string
		want        Verdict
	}{{"V", "d", OK}, {"V", "d", OK}, {"V", "other", Conflict}, {"W", "d", Conflict}} {
		if a, err := s.Reserve(t.Context(), step.vin, "id", step.digest, time.Minute); err != nil || a.Verdict != step.want {
			t.Errorf("reserving: %+v %v, want %s", a, err, step.want)
		}
	}
}

// TestReservedElsewhere checks that a command is accepted only at the server that has its id's reservation.
func TestReservedElsewhere(t *testing.T) {
	t.Parallel()
	s := begun(t)
	reserved, err := s.Reserve(t.Context(), "V", "c", "d", time.Minute)
	check.OK(t, err)
	o := Offered{VIN: "V", ID: "c", Digest: "d", TTL: time.Minute, MaxOpen: 9, Reserved: "embedded:another"}
	if a, err := s.Accept(t.Context(), o); err != nil || a.Verdict != Moved {
		t.Errorf("at another server: %+v %v", a, err)
	}
	if a, err := s.Look(t.Context(), "V", "c"); err != nil || a.Verdict != Missing {
		t.Errorf("it is there: %+v %v", a, err)
	}
	o.Reserved = reserved.Server
	if a, err := s.Accept(t.Context(), o); err != nil || a.Verdict != OK {
		t.Errorf("at the same server: %+v %v", a, err)
	}
}

// TestRecordSurvivesOffers checks that a command offered to an empty Redis is unchanged.
func TestRecordSurvivesOffers(t *testing.T) {
	t.Parallel()
	s := begun(t)
	a, err := s.Accept(t.Context(), Offered{VIN: "V", ID: "c", Digest: "0", TTL: time.Minute, MaxOpen: 9, Fields: map[string]string{"name": "n", "payload": "\x00\xff"}})
	check.OK(t, err)
	other := begun(t)
	b, err := other.Offer(t.Context(), a.Record)
	if err != nil || fmt.Sprint(a.Record) != fmt.Sprint(b.Record) {
		t.Errorf("%+v\n%+v %v", a.Record, b.Record, err)
	}
}

// TestPresence checks that a session ends once, whichever gateway reports it, and that a connect wins.
func TestPresence(t *testing.T) {
	t.Parallel()
	s, _ := embedded(t)
	ctx := t.Context()
	claim := func(node string, n uint64, age time.Duration) Connection {
		got, err := s.Claim(ctx, "V", Connection{Node: node, Boot: "b", Number: n}, age, true)
		if err != nil || got.Verdict != OK {
			t.Fatalf("%+v %v", got, err)
		}
		return Connection{Node: node, Boot: "b", Number: n, Epoch: got.Epoch, Since: got.Since}
	}
	at, seqs := int64(9), []uint64{0} // numbers answered, in order
	tell := func(c Connection, event string) string {
		at++
		n, verdict, err := s.Presence(ctx, "V", c, event, "why", time.UnixMilli(at), seqs[len(seqs)-1])
		check.OK(t, err)
		if event == "disconnected" && verdict == OK && (n.At.UnixMilli() != 14 && c.Node == "gw-1" || n.Reason != "why") {
			t.Errorf("the end is told as %+v", n)
		}
		if n.Seq > seqs[len(seqs)-1] {
			seqs = append(seqs, n.Seq)
		}
		return fmt.Sprint(verdict, slices.Index(seqs, n.Seq))
	}
	a := claim("gw-1", 1, time.Minute)
	for _, step := range []struct {
		c           Connection
		event, want string
	}{
		{a, "connected", "ok1"},
		{a, "ready", "ok2"},
		{claim("gw-2", 1, 0), "connected", "ok3"},
		{a, "ready", "ok4"},
		{a, "disconnected", "ok5"},
		{a, "disconnected", "ok5"},
		{a, "ready", "already0"},
	} {
		if got := tell(step.c, step.event); got != step.want {
			t.Errorf("%s of %s: %s, want %s", step.event, step.c.Node, got, step.want)
		}
	}
	ended := 0
	for one, err := range s.Sessions(ctx, 0) {
		if one.Ended != nil {
			ended++
			if one.Epoch != a.Epoch || one.Node != "gw-1" || one.Ended.Seq != seqs[5] || one.Ended.Reason != "why" || one.Ended.At.UnixMilli() != 14 || err != nil {
				t.Errorf("what was not told: %+v %+v %v", one, one.Ended, err)
			}
		}
	}
	for range 2 {
		if err := s.EndPublished(ctx, "V", a.Epoch); err != nil {
			t.Error(err)
		}
	}
	if got := tell(a, "disconnected"); got != "already0" || ended != 1 {
		t.Errorf("after it was told: %s, %d sessions were to be told", got, ended)
	}
	held, err := s.Held(ctx, []string{"W", "V"})
	if err != nil || held[0].Node != "" || held[1].Node != "gw-2" || held[1].Number != 1 || held[1].Ended {
		t.Errorf("%+v %v", held, err)
	}
	v, verdict, err := s.Vehicle(ctx, "V")
	if err != nil || verdict != OK || v.Event != "connected" || v.Owner.Node != "gw-2" || v.Owner.Epoch <= a.Epoch {
		t.Errorf("%+v %v %v", v, verdict, err)
	}
	if got, err := s.Claim(ctx, "V", a, 0, true); err != nil || got.Verdict != Older || got.Former.Node != "gw-2" {
		t.Errorf("the claim of the older connection: %+v %v", got, err)
	}
	if verdict, err := s.StoreSession(ctx, "V", a, []byte("s")); err != nil || verdict != NotOwner {
		t.Errorf("the session of the older connection: %v %v", verdict, err)
	}
}

// TestClaimedAgain: a connection that claims again, because Redis has lost its claim, gets a later epoch, but not later than the
// beginning of a younger connection: the records of that one may have this time as their epoch until it is claimed.
func TestClaimedAgain(t *testing.T) {
	t.Parallel()
	s, r := embedded(t)
	old := Connection{Node: "gw-1", Boot: "b", Number: 1}
	claim := func(c Connection, age time.Duration) Claimed {
		got, err := s.Claim(t.Context(), "V", c, age, false)
		if err != nil || got.Verdict != OK {
			t.Fatalf("%+v %v", got, err)
		}
		return got
	}
	first := claim(old, time.Minute)
	old.Epoch, old.Since = first.Epoch, first.Since
	r.Del(Prefix + "{V}:vehicle")
	again := claim(old, time.Minute)
	if began := again.Now - 59_000; again.Epoch <= first.Epoch || again.Epoch >= began {
		t.Errorf("epoch %d, want one between %d and %d", again.Epoch, first.Epoch, began)
	}
	if young := claim(Connection{Node: "gw-2", Boot: "b", Number: 1}, 59*time.Second); young.Epoch <= again.Epoch {
		t.Errorf("the younger one has epoch %d, the older one %d", young.Epoch, again.Epoch)
	}
}

// TestLostSession: Redis has lost a session that was claimed long after it began.
func TestLostSession(t *testing.T) {
	t.Parallel()
	s, r := embedded(t)
	c := Connection{Node: "gw-1", Boot: "b", Number: 1}
	got, err := s.Claim(t.Context(), "V", c, time.Minute, false)
	check.OK(t, err)
	c.Epoch = got.Epoch
	tell := func(event string, last uint64) (uint64, Verdict) {
		n, verdict, err := s.Presence(t.Context(), "V", c, event, "", time.Now(), last)
		check.OK(t, err)
		return n.Seq, verdict
	}
	last, _ := tell("connected", 0)
	r.HDel(Prefix+"cell-1:sessions", fmt.Sprintf("V/%d", c.Epoch))
	r.HSet(Prefix+"cell-1:mark", "was", fmt.Sprint(last-1), "turned", fmt.Sprint(last+1))
	if _, verdict := tell("disconnected", last); verdict != Missing {
		t.Errorf("it is lost, and the answer %s", verdict)
	}
	r.HSet(Prefix+"cell-1:mark", "was", fmt.Sprint(c.Epoch-1), "turned", fmt.Sprint(c.Epoch+1))
	if _, verdict := tell("disconnected", last); verdict != Already {
		t.Errorf("its end was published, and the answer is %s", verdict)
	}
}

// TestRepeatedClaim: a claim whose answer was lost names the same former connection again.
func TestRepeatedClaim(t *testing.T) {
	t.Parallel()
	s := begun(t)
	conn := func(node string, number uint64) Connection { return Connection{Node: node, Boot: "b", Number: number} }
	for _, step := range []struct {
		c, former Connection
	}{
		{conn("gw-1", 1), Connection{}},
		{conn("gw-1", 1), conn("gw-1", 1)}, // there was none
		{conn("gw-2", 1), conn("gw-1", 1)},
		{conn("gw-2", 1), conn("gw-1", 1)},
		{conn("gw-2", 2), conn("gw-2", 1)},
		{conn("gw-2", 2), conn("gw-2", 1)},
		{conn("gw-1", 2), conn("gw-2", 2)},
	} {
		got, err := s.Claim(t.Context(), "V", step.c, 0, false)
		if err != nil || got.Verdict != OK {
			t.Fatalf("%+v: %+v, %v", step.c, got, err)
		}
		named := got.Former
		if named.Epoch = 0; named != step.former {
			t.Errorf("%+v: the former is %+v, want %+v", step.c, named, step.former)
		}
	}
}

// TestClaimAtAnOlderRedis: a Redis that knows the connection under an epoch before its latest one, a demoted server for
// example, gives it a later one.
func TestClaimAtAnOlderRedis(t *testing.T) {
	t.Parallel()
	s := begun(t)
	c := Connection{Node: "gw-1", Boot: "b", Number: 1}
	got, err := s.Claim(t.Context(), "V", c, 0, false)
	check.OK(t, err)
	c.Since, c.Epoch = got.Since, got.Epoch+1000
	if got, err = s.Claim(t.Context(), "V", c, 0, false); err != nil || got.Verdict != OK || got.Epoch <= c.Epoch || got.Since != c.Since {
		t.Errorf("%+v, %v, the epoch before was %d", got, err, c.Epoch)
	}
}

// TestAlive checks which gateways may run at the same time.
func TestAlive(t *testing.T) {
	t.Parallel()
	s, server := embedded(t)
	began := time.Now()
	gw := func(node, boot, dir, mode string, after time.Duration) Gateway {
		return Gateway{Node: node, Boot: boot, Dir: dir, Mode: mode, Start: began.Add(after), Runs: `{"address":"10.0.0.1:8080"}`}
	}
	for _, step := range []struct {
		what string
		g    Gateway
		want Verdict
	}{
		{"the first", gw("gw-1", "b1", "d1", "several", 0), OK},
		{"the first again", gw("gw-1", "b1", "d1", "several", 0), OK},
		{"a second", gw("gw-2", "b2", "d2", "several", 0), OK},
		{"of the first one's name", gw("gw-1", "b3", "d3", "several", time.Second), Taken},
		{"a later boot of the first", gw("gw-1", "b4", "d1", "several", time.Second), OK},
		{"its earlier boot", gw("gw-1", "b1", "d1", "several", 0), Replaced},
		{"for itself", gw("gw-3", "b5", "d5", "single", 0), Second},
	} {
		all, _, err := s.Alive(t.Context(), step.g, 10*time.Second)
		var refused *RefusedError
		switch errors.As(err, &refused) {
		case true:
			if refused.Verdict != step.want || !strings.Contains(err.Error(), "10.0.0.1:8080") || refused.Other.Node == "" {
				t.Errorf("%s: %v, want %s", step.what, err, step.want)
			}
		case false:
			if err != nil || step.want != OK || len(all) == 0 {
				t.Errorf("%s: %v %v, want %s", step.what, all, err, step.want)
			}
		}
	}
	check.OK(t, s.Leave(t.Context(), gw("gw-2", "b2", "d2", "several", 0)))
	if all, _, err := s.Alive(t.Context(), gw("gw-1", "b4", "d1", "several", time.Second), time.Millisecond); err != nil || len(all) != 1 {
		t.Errorf("after the second left: %v %v", all, err)
	}
	other := storeOf(t, server, "cell-2")
	if all, _, err := other.Alive(t.Context(), gw("gw-1", "b9", "d9", "single", 0), time.Second); err != nil || len(all) != 1 {
		t.Errorf("in another cell of the same Redis: %v %v", all, err)
	}
}

// TestLaterBoot checks that the later of two starts of a data_dir runs, whatever the clocks show.
func TestLaterBoot(t *testing.T) {
	t.Parallel()
	s, _ := embedded(t)
	now := time.Now()
	ahead := Gateway{Node: "gw-1", Boot: "b1", Dir: "d", Mode: "single", Boots: 9, Start: now.Add(24 * time.Hour)} // its clock was wrong
	after := Gateway{Node: "gw-1", Boot: "b2", Dir: "d", Mode: "single", Boots: 10, Start: now}
	copied := Gateway{Node: "gw-1", Boot: "b3", Dir: "d", Mode: "single", Boots: 10, Start: now.Add(time.Second)}
	for _, g := range []Gateway{ahead, after, copied} {
		if _, _, err := s.Alive(t.Context(), g, time.Minute); err != nil {
			t.Errorf("%s: %v", g.Boot, err)
		}
	}
	for _, g := range []Gateway{ahead, after} {
		var refused *RefusedError
		if _, _, err := s.Alive(t.Context(), g, time.Minute); !errors.As(err, &refused) || refused.Verdict != Replaced {
			t.Errorf("%s, which was replaced: %v", g.Boot, err)
		}
	}
}

// TestLateHeartbeat: a heartbeat that arrives after its gateway has left does not make it count as alive. The next start
// does not mind.
func TestLateHeartbeat(t *testing.T) {
	t.Parallel()
	s, _ := embedded(t)
	gone, other := Gateway{Node: "gw-1", Boot: "b1", Dir: "d", Mode: "several", Boots: 1, Start: time.Now(), Runs: "{}"}, Gateway{Node: "gw-2", Boot: "b", Dir: "e", Mode: "several", Start: time.Now(), Runs: "{}"}
	lives := func() bool {
		all, _, err := s.Alive(t.Context(), other, time.Minute)
		check.OK(t, err)
		return slices.ContainsFunc(all, func(g Gateway) bool { return g.Node == gone.Node && g.Lives })
	}
	for _, first := range []bool{true, false} { // the late one may be the only one
		if gone.Boot += "'"; first {
			_, _, err := s.Alive(t.Context(), gone, time.Minute)
			check.OK(t, err)
		}
		check.OK(t, s.Leave(t.Context(), gone))
		if _, _, err := s.Alive(t.Context(), gone, time.Minute); !errors.Is(err, ErrLeft) || lives() {
			t.Errorf("%v; it lives: %v", err, lives())
		}
	}
	gone.Boot, gone.Boots = "b2", 2
	if _, _, err := s.Alive(t.Context(), gone, time.Minute); err != nil || !lives() {
		t.Errorf("the next start: %v", err)
	}
}

// TestAway checks that a missing answer is ErrAway.
func TestAway(t *testing.T) {
	t.Parallel()
	s, server := embedded(t)
	server.Close()
	if _, err := s.Look(t.Context(), "V", "c"); !errors.Is(err, ErrAway) {
		t.Errorf("%v", err)
	}
}

// TestForgottenScripts checks that a server that has lost the scripts gets them again.
func TestForgottenScripts(t *testing.T) {
	t.Parallel()
	s := begun(t)
	check.OK(t, s.client.ScriptFlush(t.Context()).Err())
	if a, err := s.Look(t.Context(), "V", "c"); err != nil || a.Verdict != Missing {
		t.Errorf("%+v %v", a, err)
	}
}

// offers yields commands as a gateway reads them from its disk.
func offers(all ...Record) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// rejoinOne calls Rejoin for slot 0.
func rejoinOne(ctx context.Context, s *Store, node string, m Memory, remembered iter.Seq2[Record, error], begins bool) (j Joined, err error) {
	s.Rejoin(ctx, node, []Offering{{Memory: m, Remembered: remembered}}, begins, func(joined map[int]Joined, failed error) bool {
		j, err = joined[0], failed
		return true
	})
	return j, err
}

// TestRejoin loses all data in Redis; two gateways offer what they remember. Until both have, nothing is decided.
func TestRejoin(t *testing.T) {
	t.Parallel()
	s, server := embedded(t)
	ctx := t.Context()
	if j, err := rejoinOne(ctx, s, "gw-1", Memory{}, nil, false); err != nil || j.Verdict != Empty {
		t.Fatalf("nobody has begun the cell: %+v %v", j, err)
	}
	memory := map[string]Memory{"gw-1": {}, "gw-2": {}}
	rejoin := func(node string, begins bool, records ...Record) Verdict {
		t.Helper()
		j, err := rejoinOne(ctx, s, node, memory[node], offers(records...), begins)
		check.OK(t, err)
		if j.Verdict == OK {
			memory[node] = j.Memory()
		}
		return j.Verdict
	}
	if v := rejoin("gw-1", true); v != OK {
		t.Fatal(v)
	}
	if v := rejoin("gw-2", false); v != OK {
		t.Fatal(v)
	}
	rejoin("gw-1", false) // it learns of the other
	a, err := s.Accept(ctx, Offered{VIN: "V", ID: "c", Digest: "d", TTL: time.Hour, MaxOpen: 9})
	if err != nil || a.Verdict != OK {
		t.Fatalf("%+v %v", a, err)
	}
	b, err := s.Cancel(ctx, "V", "c")
	if err != nil || b.Verdict != OK {
		t.Fatalf("%+v %v", b, err)
	}
	server.FlushAll()
	if v := rejoin("gw-1", false, a.Record); v != Waiting {
		t.Errorf("one of two has offered: %v", v)
	}
	if a, err := s.Look(ctx, "V", "c"); err != nil || a.Verdict != Closed {
		t.Errorf("one of two has offered: %+v %v", a, err)
	}
	if v := rejoin("gw-2", false, b.Record); v != OK {
		t.Errorf("both have offered: %v", v)
	}
	if a, err := s.Look(ctx, "V", "c"); err != nil || a.Record.State != "cancelled" {
		t.Errorf("queued and cancelled were offered: %+v %v", a, err)
	}
}

// TestLists checks what sweeps read: overdue commands and sessions that have not ended.
func TestLists(t *testing.T) {
	t.Parallel()
	s := begun(t)
	ctx := t.Context()
	for id, ttl := range map[string]time.Duration{"short": time.Millisecond, "long": time.Hour} {
		if a, err := s.Accept(ctx, Offered{VIN: "V", ID: id, Digest: "d", TTL: ttl, MaxOpen: 9}); err != nil || a.Verdict != OK {
			t.Fatalf("%+v %v", a, err)
		}
	}
	check.Eventually(t, "the short one to be due", func() bool {
		one := []Sweep{{}}
		s.Sweep(ctx, one, 10, 0)
		return one[0].Err == nil && len(one[0].Open) == 2 && slices.Equal(one[0].Due, []Name{{VIN: "V", ID: "short"}})
	})
	for n := range 300 {
		_, err := s.Claim(ctx, fmt.Sprintf("V%d", n), Connection{Node: "gw-1", Boot: "b", Number: uint64(n)}, 0, false)
		check.OK(t, err)
	}
	seen := map[string]bool{}
	for session, err := range s.Sessions(ctx, 0) {
		if err != nil || session.Node != "gw-1" || session.Boot != "b" || session.Epoch == 0 {
			t.Fatalf("%+v %v", session, err)
		}
		seen[session.VIN] = true
	}
	if len(seen) != 300 {
		t.Errorf("%d sessions of 300", len(seen))
	}
}

// TestRank merges every pair of states and checks that the scripts order them as Rank does.
func TestRank(t *testing.T) {
	t.Parallel()
	s := begun(t)
	var all []Record
	for _, state := range []string{"queued", "sent", "delivered", "accepted", "cancelled", "late", "rejected", "failed", "succeeded"} {
		all = append(all, Record{State: state})
	}
	for _, cause := range []string{"not_sent", "unknown", "not_acknowledged", "no_result"} {
		all = append(all, Record{State: "expired", Cause: cause})
	}
	for i, a := range all {
		for k, b := range all {
			a.VIN, a.ID, a.Expires = "V", fmt.Sprintf("c%d-%d", i, k), 4_000_000_000_000
			b.VIN, b.ID, b.Expires = a.VIN, a.ID, a.Expires
			_, err := s.Offer(t.Context(), a)
			check.OK(t, err)
			got, err := s.Offer(t.Context(), b)
			check.OK(t, err)
			want := a
			if Rank(b.State, b.Cause) > Rank(a.State, a.Cause) {
				want = b
			}
			if got.Record.State != want.State || got.Record.Cause != want.Cause {
				t.Errorf("%s %s and %s %s become %s %s", a.State, a.Cause, b.State, b.Cause, got.Record.State, got.Record.Cause)
			}
		}
	}
}

// TestRefuse checks that a request is refused once and not accepted afterwards.
func TestRefuse(t *testing.T) {
	t.Parallel()
	s := begun(t)
	o := Offered{VIN: "V", ID: "c", Digest: "d", TTL: time.Minute, MaxOpen: 9, Fields: map[string]string{"name": "n"}}
	for _, want := range []Verdict{OK, Already} {
		if a, err := s.Refuse(t.Context(), o, "rejected", "too large"); err != nil || a.Verdict != want {
			t.Errorf("%+v %v, want %s", a, err, want)
		}
	}
	if a, err := s.Accept(t.Context(), o); err != nil || a.Verdict != Already || a.Record.State != "rejected" || a.Record.Cause != "too large" {
		t.Errorf("%+v %v", a, err)
	}
}

// TestNotices checks that a gateway receives another one's notices.
func TestNotices(t *testing.T) {
	t.Parallel()
	s, _ := embedded(t)
	heard := make(chan Notice, 2)
	began := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ListenCommands(ctx, func() { began <- struct{}{} }, func(n Notice) { heard <- n }, func(error) bool { return true })
	}()
	<-began
	want := []Notice{{What: Queued, VIN: "a vehicle", ID: "c1"}, {What: Ended, VIN: "V", ID: "c2"}}
	check.OK(t, s.NotifyCommands(t.Context(), want))
	for _, w := range want {
		if n := <-heard; n != w {
			t.Errorf("%+v, want %+v", n, w)
		}
	}
	cancel()
	<-done
}

// TestRejoinAtAnOpenServer checks that a restarted member offers nothing, and that one registered only by others offers
// everything.
func TestRejoinAtAnOpenServer(t *testing.T) {
	t.Parallel()
	s := begun(t)
	ctx := t.Context()
	record := Record{ID: "c", VIN: "V", State: "cancelled", Digest: "d", Gen: 1, Number: 1, Created: 1, Expires: 2}
	join := func(node string, members ...string) (offered int) {
		t.Helper()
		j, err := rejoinOne(ctx, s, node, Memory{Remembers: true, Gen: 1, Members: members}, func(yield func(Record, error) bool) {
			offered++
			yield(record, nil)
		}, false)
		if err != nil || j.Verdict != OK {
			t.Errorf("%s: %+v %v", node, j, err)
		}
		return offered
	}
	if n := join("gw-1", "gw-1", "gw-2"); n != 0 {
		t.Errorf("the member that has opened it offers %d times", n)
	}
	if n := join("gw-2", "gw-1", "gw-2"); n == 0 {
		t.Error("who is registered by another one offers nothing")
	}
	if a, err := s.Look(ctx, "V", "c"); err != nil || a.Record.State != "cancelled" {
		t.Errorf("%+v %v", a, err)
	}
	if n := join("gw-2", "gw-1", "gw-2"); n != 0 {
		t.Errorf("a member that has offered does so %d times more", n)
	}
}

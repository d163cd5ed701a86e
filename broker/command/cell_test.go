package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// together is a cell of several gateways on one Redis.
type together struct {
	*testing.T
	redis *miniredis.Miniredis
	all   []*member
	conns uint64
}

// member is a gateway: its command service, vehicles, and published events.
type member struct {
	*Service
	t         *together
	name      string
	client    *redis.Client
	store     *cell.Store
	engine    *roads
	published *kafka

	mu     sync.Mutex
	claims map[string]cell.Connection
	away   error
}

// roads is the delivery engine of a gateway; it owns the vehicles that it claims.
type roads struct {
	m *member
	engine
}

func (r *roads) Ready(vin string) (byte, bool) {
	_, ok := r.m.owner(vin)
	return 5, ok
}

func (m *member) owner(vin string) (cell.Connection, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.claims[vin]
	return c, ok
}

func (m *member) usable(int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.away
}

func (m *member) set(away error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

func newTogether(t *testing.T, n int) *together {
	t.Helper()
	c := &together{T: t, redis: miniredis.RunT(t)}
	for i := range n {
		c.add(fmt.Sprintf("gw-%d", i+1))
	}
	return c
}

func (c *together) add(name string) *member {
	c.Helper()
	client := redis.NewClient(&redis.Options{Addr: c.redis.Addr(), MaxRetries: -1, DisableIdentity: true, PoolSize: maxTurns})
	c.Cleanup(func() { _ = client.Close() })
	store, err := cell.NewStore(client, "cell-1", cell.Confirmation{Wait: time.Second}, time.Hour)
	check.OK(c.T, err)
	j, err := store.Join(c.Context(), 0, name, cell.Memory{}, "", true)
	if check.OK(c.T, err); j.Verdict != cell.OK {
		c.Fatal(j)
	}
	m := &member{t: c, name: name, client: client, store: store, published: &kafka{}, claims: map[string]cell.Connection{}}
	m.engine = &roads{m: m, engine: engine{version: 5, arrived: make(chan *message.Delivery, 10_000)}}
	m.Service = start(c.T, Options{
		Deliverer: m.engine, Publish: m.published.Publish,
		Cell: &Cell{Store: store, Node: name, Owner: m.owner, Usable: m.usable, Closed: func(int) {}, Patience: time.Minute},
	})
	c.Cleanup(func() {
		check.Eventually(c.T, "answers to be held no longer than until they are written", func() bool { return m.unwrittenAnswers() == 0 })
	})
	c.all = append(c.all, m)
	return m
}

// unwrittenAnswers returns how many answers are held.
func (m *member) unwrittenAnswers() (n int) {
	m.unwritten.mu.Lock()
	defer m.unwritten.mu.Unlock()
	for _, one := range m.unwritten.slots {
		n += len(one)
	}
	return n
}

// connects moves a vehicle to a gateway.
func (c *together) connects(m *member, vin string) {
	c.Helper()
	c.conns++
	conn := cell.Connection{Node: m.name, Boot: "b", Number: c.conns}
	got, err := m.store.Claim(c.Context(), vin, conn, 0, true)
	if check.OK(c.T, err); got.Verdict != cell.OK {
		c.Fatal(got)
	}
	conn.Epoch, conn.Since = got.Epoch, got.Since
	for _, other := range c.all {
		other.mu.Lock()
		delete(other.claims, vin)
		other.mu.Unlock()
	}
	m.mu.Lock()
	m.claims[vin] = conn
	m.mu.Unlock()
	m.OnReady(vin)
}

// acts has the vehicle acknowledge a delivery and report its outcome.
func (m *member) acts(d *message.Delivery, status State) {
	m.t.Helper()
	d.Acked(0)
	m.says(d.Topic, status)
}

func (m *member) says(topic string, status State) {
	m.t.Helper()
	vin, _, rest := message.SplitTopic(topic)
	id, _, _ := strings.Cut(rest, "/")
	check.OK(m.t.T, m.Result(m.t.Context(), &message.Record{
		Kind: message.KindPublish, Topic: "v1/" + vin + "/res/" + id + "/" + string(status), Client: vin, Payload: []byte(`{"done":true}`),
		ReceivedAt: time.Now().UnixMilli(),
	}))
	check.OK(m.t.T, m.Sync(m.t.Context()))
}

// at waits until a gateway shows a command in a state.
func (c *together) at(m *member, id string, want State) {
	c.Helper()
	check.Within(c.T, time.Minute, id+" to be "+string(want), func() error {
		cmd, err := m.Get(c.Context(), "", id)
		if err == nil && cmd.State != want {
			err = fmt.Errorf("it is %s", cmd.State)
		}
		return err
	})
}

// published checks the states that all gateways have published of a command, repetitions included.
func (c *together) published(id string, want ...State) {
	c.Helper()
	check.Within(c.T, time.Minute, "what is told of "+id, func() error {
		var all []State
		for _, m := range c.all {
			all = append(all, m.published.states(c.T, id)...)
		}
		order := States()
		slices.SortFunc(all, func(a, b State) int { return slices.Index(order, a) - slices.Index(order, b) })
		if !slices.Equal(all, want) {
			return fmt.Errorf("%v, want %v", all, want)
		}
		return nil
	})
}

// TestWrongGateway checks that a command given to the gateway without the vehicle reaches it, that both learn of its
// end, and that each state is published once.
func TestWrongGateway(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(b, vin)
	if cmd := create(t, a.Service, Request{ID: "c1", Payload: []byte(`{"n":1}`), JSON: true}); cmd.State != Queued || cmd.Name != "lock" {
		t.Errorf("%+v", cmd)
	}
	d := b.engine.next(t)
	if d.Topic != "v1/"+vin+"/cmd/c1/lock" || string(d.Payload) != `{"n":1}` {
		t.Errorf("%+v", d)
	}
	c.at(a, "c1", Sent)
	b.acts(d, Succeeded)
	c.at(a, "c1", Succeeded)
	c.at(b, "c1", Succeeded)
	c.published("c1", Queued, Sent, Delivered, Succeeded)
	check.Eventually(t, "the gateway that accepted it to keep it as open no longer", func() bool { return a.Stat().Open == 0 })
}

// calls counts the scripts that read a command (look) or ask to send one, by their keys, and loses the first answer to the latter.
type calls struct {
	mu           sync.Mutex
	looks, sends int
}

func (*calls) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*calls) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *calls) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		args := cmds[0].Args() // EVALSHA, script, number of keys, mark, key …
		if err != nil || len(args) < 5 || !strings.Contains(fmt.Sprint(args[4]), ":command:") {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		switch args[2] {
		case 2:
			c.looks++
		case 3:
			if c.sends++; c.sends == 1 {
				cmds[0].SetErr(io.ErrUnexpectedEOF)
				return io.ErrUnexpectedEOF
			}
		}
		return nil
	}
}

// TestSentAlone checks that the gateway of a vehicle asks to send its only command without reading it before, and publishes that
// once, though the first answer is lost; and that it reads a second one first.
func TestSentAlone(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(b, vin)
	read := make(chan struct{}) // closed when b has read what the vehicle had before
	b.turns.run(vin, func(context.Context) { close(read) })
	<-read
	seen := &calls{}
	b.client.AddHook(seen)
	create(t, a.Service, Request{ID: "c1"})
	d := b.engine.next(t)
	seen.mu.Lock()
	if seen.looks != 0 || seen.sends != 2 {
		t.Errorf("%d looks, %d sends", seen.looks, seen.sends)
	}
	seen.mu.Unlock()
	create(t, a.Service, Request{ID: "c2"})
	b.acts(b.engine.next(t), Succeeded)
	b.acts(d, Succeeded)
	c.published("c1", Queued, Sent, Delivered, Succeeded)
	c.published("c2", Queued, Sent, Delivered, Succeeded)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if seen.looks == 0 {
		t.Error("a command was sent past an open one without looking")
	}
}

// hang makes the gateway's disk hang until release is called.
func (m *member) hang() (release func()) {
	hangs, released, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- m.o.DB.Update(func(*statefile.Tx) error {
			close(hangs)
			<-released
			return nil
		})
	}()
	<-hangs
	return sync.OnceFunc(func() {
		close(released)
		check.OK(m.t.T, <-done)
	})
}

// sentInCell waits until a command may be sent.
func (c *together) sentInCell(id string) {
	c.Helper()
	check.Within(c.T, time.Minute, id+" to be permitted", func() error {
		a, err := c.all[0].store.Look(c.Context(), vin, id)
		if err == nil && a.Record.State != string(Sent) {
			err = fmt.Errorf("%s: %s", a.Verdict, a.Record.State)
		}
		return err
	})
}

// TestPassedOnDuringTheWrite checks that the vehicle's gateway does not wait for the disk of the one that accepted a command; and that
// a gateway that is both requests the permission meanwhile, but neither answers nor sends before its disk has the command.
func TestPassedOnDuringTheWrite(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(b, vin)
	give := func(id string) chan error {
		answer := make(chan error, 1)
		go func() {
			_, _, err := a.Create(t.Context(), Request{ID: id, VIN: vin, Name: "lock", Caller: Caller{By: "x", Origin: OriginHTTP}})
			answer <- err
		}()
		return answer
	}
	began, told := make(chan struct{}, 1), make(chan cell.Notice, 100)
	go b.store.ListenCommands(t.Context(), func() { began <- struct{}{} }, func(n cell.Notice) { told <- n }, func(error) bool { return true })
	<-began
	release := a.hang()
	defer release()
	answer := give("c1")
	if n := <-told; n != (cell.Notice{What: cell.Queued, VIN: vin, ID: "c1"}) {
		t.Error(n)
	}
	d := b.engine.next(t)
	release()
	check.OK(t, <-answer)
	b.acts(d, Succeeded)
	c.at(a, "c1", Succeeded)

	c.connects(a, vin)
	check.OK(t, a.Sync(t.Context()))
	release = a.hang()
	defer release()
	answer = give("c2")
	c.sentInCell("c2")
	select {
	case err := <-answer:
		t.Error("answered before it was on the disk", err)
	case d := <-a.engine.arrived:
		t.Error("sent before it was on the disk", d.Topic)
	default:
	}
	release()
	check.OK(t, <-answer)
	a.acts(a.engine.next(t), Succeeded)
	c.published("c1", Queued, Sent, Delivered, Succeeded)
	c.published("c2", Queued, Sent, Delivered, Succeeded)
}

// TestWaitElsewhere checks that a waiter at one gateway learns of an end at another.
func TestWaitElsewhere(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(b, vin)
	create(t, a.Service, Request{ID: "c1"})
	var vehicle sync.WaitGroup
	defer vehicle.Wait()
	vehicle.Go(func() { b.acts(b.engine.next(t), Failed) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if cmd, err := a.wait(ctx, vin, "c1"); err != nil || cmd.State != Failed || string(cmd.Result) != `{"done":true}` {
		t.Errorf("%+v %v", cmd, err)
	}
}

// TestCancelElsewhere checks that any gateway can cancel an unsent command, and none a sent one.
func TestCancelElsewhere(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	create(t, a.Service, Request{ID: "c1"})
	if cmd, err := b.Cancel(t.Context(), Caller{By: "x"}, vin, "c1"); err != nil || cmd.State != Cancelled {
		t.Errorf("%+v %v", cmd, err)
	}
	c.published("c1", Queued, Cancelled)
	c.connects(a, vin)
	create(t, a.Service, Request{ID: "c2"})
	a.engine.next(t)
	for _, m := range c.all {
		if cmd, err := m.Cancel(t.Context(), Caller{}, vin, "c2"); !errors.Is(err, ErrNotCancellable) || cmd.State != Sent {
			t.Errorf("%+v %v", cmd, err)
		}
	}
	forbids := Caller{May: func(string, string) bool { return false }}
	if _, err := b.Cancel(t.Context(), forbids, vin, "c2"); !errors.Is(err, errNotPermitted) {
		t.Error(err)
	}
	if _, err := b.Cancel(t.Context(), Caller{}, vin, "c3"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestMoves checks that a vehicle's next gateway sends what was sent and not acknowledged, then what is queued, in
// order.
func TestMoves(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(a, vin)
	create(t, a.Service, Request{ID: "c1"})
	first := a.engine.next(t)
	c.at(b, "c1", Sent)
	a.mu.Lock()
	delete(a.claims, vin)
	a.mu.Unlock()
	first.Failed(errors.New("the connection is gone"))
	for i := range 5 {
		create(t, c.all[i%2].Service, Request{ID: fmt.Sprintf("c%d", i+2), Urgent: i == 4})
	}
	c.connects(b, vin)
	var order []string
	for range 6 {
		d := b.engine.next(t)
		order = append(order, strings.Split(d.Topic, "/")[3])
		b.acts(d, Succeeded)
	}
	want := []string{"c6", "c1", "c2", "c3", "c4", "c5"}
	if !slices.Equal(order, want) && !slices.Equal(order[1:], want[1:]) {
		t.Errorf("sent as %v, want %v", order, want)
	}
	c.published("c1", Queued, Sent, Delivered, Succeeded)
	c.published("c5", Queued, Sent, Delivered, Succeeded)
}

// TestExpiresTogether checks that a command expires once, at any gateway, with and without the one that accepted it.
func TestExpiresTogether(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 3)
	create(t, c.all[0].Service, Request{ID: "c1", TTL: time.Second})
	create(t, c.all[1].Service, Request{ID: "c2", TTL: time.Second})
	stop(t, c.all[1].Service)
	c.at(c.all[2], "c1", Expired)
	c.at(c.all[2], "c2", Expired)
	c.published("c1", Queued, Expired)
	c.published("c2", Queued, Expired)
}

// TestIdsInTheCell checks that an id is unique in the cell.
func TestIdsInTheCell(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	create(t, c.all[0].Service, Request{ID: "c1"})
	if cmd, created, err := c.all[1].Create(t.Context(), Request{ID: "c1", VIN: vin, Name: "lock"}); err != nil || created || cmd.ID != "c1" {
		t.Errorf("%+v %v %v", cmd, created, err)
	}
	for _, r := range []Request{{ID: "c1", VIN: vin, Name: "unlock"}, {ID: "c1", VIN: "OTHER", Name: "lock"}} {
		if _, _, err := c.all[1].Create(t.Context(), r); !errors.Is(err, errConflict) {
			t.Error(err)
		}
	}
	if cmd, err := c.all[1].Get(t.Context(), "", "c1"); err != nil || cmd.VIN != vin {
		t.Errorf("by its id alone: %+v %v", cmd, err)
	}
	if _, err := c.all[1].Get(t.Context(), "", "c9"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	c.published("c1", Queued)
}

// TestRedisAway checks that only certain results are accepted, cancelled or shown, that the answer names the id, and
// that reports of vehicles are not lost meanwhile.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(b, vin)
	create(t, a.Service, Request{ID: "c1"})
	d := b.engine.next(t)
	a.set(errors.New("no answer for 2 s"))
	_, _, err := a.Create(t.Context(), Request{VIN: vin, Name: "lock"})
	var unknown *unknownError
	if !errors.As(err, &unknown) || unknown.ID == "" || !strings.Contains(err.Error(), "repeat with this id: "+unknown.ID) {
		t.Errorf("%v", err)
	}
	if _, err := a.Cancel(t.Context(), Caller{}, vin, "c1"); !errors.Is(err, errUnknown) {
		t.Error(err)
	}
	if _, err := a.Get(t.Context(), vin, "c1"); !errors.Is(err, errUnknown) {
		t.Error(err)
	}
	b.set(errors.New("no answer for 2 s"))
	d.Acked(0)
	check.OK(t, b.Result(t.Context(), &message.Record{Topic: "v1/" + vin + "/res/c1/succeeded", Client: vin, ReceivedAt: 1}))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Sync(short); err == nil {
		t.Error("what is not decided counts as being on disk")
	}
	a.set(nil)
	b.set(nil)
	check.OK(t, b.Sync(t.Context()))
	c.at(a, "c1", Succeeded)
	c.published("c1", Queued, Sent, Delivered, Succeeded)
	a.set(errors.New("no answer for 2 s"))
	if cmd, err := a.Get(t.Context(), vin, "c1"); err != nil || cmd.State != Succeeded {
		t.Errorf("what is final and known: %+v %v", cmd, err)
	}
}

// TestReportedButNotWritten has a gateway die after Redis has stored a vehicle's report and before its own disk has it: the
// replay of the journal publishes it, once, also if the gateway has read the end before.
func TestReportedButNotWritten(t *testing.T) {
	t.Parallel()
	for name, is := range map[string]struct{ late, read bool }{"in time": {}, "late": {late: true}, "read": {read: true}, "late, read": {late: true, read: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			late := is.late
			c := newTogether(t, 1)
			m := c.all[0]
			c.connects(m, vin)
			one, want := Request{ID: "c1"}, []State{Queued, Sent, Delivered, Succeeded}
			if late {
				one.TTL, want = 5*time.Second, []State{Queued, Sent, Delivered, Expired, Late}
			}
			create(t, m.Service, one)
			m.engine.next(t).Acked(0)
			c.published("c1", Queued, Sent, Delivered)
			if late {
				c.at(m, "c1", Expired)
			}
			c.reportUnwritten(m, is.read)
			c.published("c1", want...)
		})
	}
}

// reportUnwritten has Redis store a vehicle's reports, and then replays them from the journal, the last one thrice.
func (c *together) reportUnwritten(m *member, read bool) {
	c.Helper()
	var words []*message.Record
	for i, status := range []State{Accepted, Succeeded} {
		rec := &message.Record{
			Kind: message.KindPublish, Topic: "v1/" + vin + "/res/c1/" + string(status), Client: vin, Payload: []byte(`{"done":true}`),
			ReceivedAt: time.Now().UnixMilli() + int64(i),
		}
		a, err := m.store.Report(c.Context(), vin, "c1", cell.Said{Status: string(status), At: rec.Time(), Payload: rec.Payload})
		if err != nil || a.Verdict != cell.OK {
			c.Fatal(a, err)
		}
		words = append(words, rec)
	}
	if read {
		_, err := m.Get(c.Context(), vin, "c1")
		check.OK(c, err)
	}
	again := *words[1]
	again.ReceivedAt++
	for _, said := range append(words, words[1], &again) {
		check.OK(c, m.Result(c.Context(), said))
		check.OK(c, m.Sync(c.Context()))
	}
}

// TestLostAnswers checks that a gateway publishes its decision even if the first answer was lost.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 1)
	m := c.all[0]
	c.connects(m, vin)
	create(t, m.Service, Request{ID: "c1"})
	d := m.engine.next(t)
	d.Acked(0)
	c.at(m, "c1", Delivered)
	tries := 0
	a, err := m.change(t.Context(), vin, "c1", Succeeded, func(st *cell.Store) (cell.Answer, error) {
		a, err := st.Report(t.Context(), vin, "c1", cell.Said{Status: "succeeded", At: time.Now()})
		if tries++; tries == 1 {
			return a, errors.Join(err, cell.ErrAway) // the script has run
		}
		return a, err
	})
	if err != nil || a.Verdict != cell.OK || tries != 2 {
		t.Errorf("%+v %v after %d tries", a, err, tries)
	}
	a.held.release()
}

// TestEndIsToldByAnother has a gateway die after Redis has ended a command and before its own disk has the end: another one
// publishes it, once, also if it has read the end before.
func TestEndIsToldByAnother(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	dead := c.add("dead")
	create(t, c.all[0].Service, Request{ID: "cancelled", VIN: "AWAY"})
	create(t, c.all[0].Service, Request{ID: "expired", VIN: "AWAY"})
	a, err := dead.store.Cancel(t.Context(), "AWAY", "cancelled")
	if err != nil || a.Verdict != cell.OK {
		t.Fatal(a, err)
	}
	c.redis.SetTime(time.Now().Add(time.Hour))
	a, err = dead.store.Expire(t.Context(), "AWAY", "expired")
	c.redis.SetTime(time.Time{})
	if err != nil || a.Verdict != cell.OK {
		t.Fatal(a, err)
	}
	stop(t, dead.Service)
	c.at(c.all[1], "cancelled", Cancelled)
	c.at(c.all[0], "cancelled", Cancelled)
	const due = "cellgate:cell-1:due"
	for _, id := range []string{"cancelled", "expired"} {
		_, err := c.redis.ZAdd(due, 1, "AWAY/"+id) // it has not been told for long
		check.OK(t, err)
	}
	c.published("cancelled", Queued, Cancelled)
	c.published("expired", Queued, Expired)
	check.Eventually(t, "the ends to be told", func() bool { return !c.redis.Exists(due) })
}

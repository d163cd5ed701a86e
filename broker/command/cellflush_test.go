package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// flush has Redis lose everything, and every gateway restore its state there.
func (c *together) flush() {
	c.Helper()
	c.redis.FlushAll()
	var names []string
	for _, m := range c.all {
		names = append(names, m.name)
	}
	for _, m := range c.all {
		memory := cell.Memory{Remembers: true, Gen: 1, Members: names}
		m.store.Rejoin(c.Context(), m.name, []cell.Offering{{Memory: memory, Remembered: m.Remembered(0)}}, false, func(_ map[int]cell.Joined, err error) bool {
			check.OK(c.T, err)
			return true
		})
	}
}

// ends is called after a script has run that may end a command, before its caller has the answer. lost takes the answer away.
type ends struct {
	then func()
	lost bool
	once sync.Once
}

func (*ends) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*ends) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (e *ends) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) (err error) {
		err = next(ctx, cmds)
		if args := cmds[0].Args(); err != nil || len(args) < 3 || fmt.Sprint(args[2]) != "5" {
			return err
		}
		e.once.Do(func() {
			if e.then != nil {
				e.then()
			}
			if e.lost {
				cmds[0].SetErr(io.ErrUnexpectedEOF)
				err = io.ErrUnexpectedEOF
			}
		})
		return err
	}
}

// TestAnswerNotWrittenAtAFlush has Redis lose a cancellation that the gateway knows and has not on its disk yet: the new server
// is told of it, and does not let the command be sent.
func TestAnswerNotWrittenAtAFlush(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	create(t, a.Service, Request{ID: "c1"})
	begun, goOn := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { // the disk of a is slow
		check.OK(t, a.o.DB.Update(func(*statefile.Tx) error { close(begun); <-goOn; return nil }))
	})
	<-begun
	ended := make(chan struct{})
	seen := &ends{then: func() { close(ended) }}
	a.client.AddHook(seen)
	all.Go(func() {
		cmd, err := a.Cancel(t.Context(), Caller{}, vin, "c1")
		if err != nil || cmd.State != Cancelled {
			t.Errorf("%+v %v", cmd, err)
		}
	})
	<-ended
	handed := make(chan struct{}) // the answer is with the loop
	a.turns.run(vin, func(context.Context) { close(handed) })
	<-handed
	c.flush()
	close(goOn)
	all.Wait()
	c.connects(b, vin)
	c.at(b, "c1", Cancelled)
	c.at(a, "c1", Cancelled)
	c.published("c1", Queued, Cancelled)
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	if n := len(b.engine.got); n != 0 {
		t.Errorf("%d commands are sent", n)
	}
}

// TestAnswerFromBeforeAFlush has Redis lose a cancellation before the gateway knows it: the gateway must not take the answer, of
// which the new server knows nothing.
func TestAnswerFromBeforeAFlush(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	create(t, a.Service, Request{ID: "c1"})
	a.client.AddHook(&ends{then: c.flush})
	if cmd, err := a.Cancel(t.Context(), Caller{}, vin, "c1"); !errors.Is(err, errUnknown) {
		t.Errorf("%+v %v", cmd, err)
	}
	c.connects(b, vin)
	b.acts(b.engine.next(t), Succeeded)
	c.at(a, "c1", Succeeded)
	c.published("c1", Queued, Sent, Delivered, Succeeded)
}

// TestEndIsToldAfterAFlush has Redis lose ends that it should have given to another gateway, because the one that decided them
// did not get the answer. They are published after all; those that are published already are not published again.
func TestEndIsToldAfterAFlush(t *testing.T) {
	t.Parallel()
	const due = "cellgate:cell-1:due"
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	for _, id := range []string{"lost", "told"} {
		create(t, a.Service, Request{ID: id})
	}
	_, err := b.Cancel(t.Context(), Caller{}, vin, "told")
	check.OK(t, err)
	c.published("told", Queued, Cancelled)
	check.Eventually(t, "the end to be told", func() bool { return !c.due("told") })
	a.client.AddHook(&ends{lost: true})
	if cmd, err := a.Cancel(t.Context(), Caller{}, vin, "lost"); !errors.Is(err, errUnknown) {
		t.Errorf("%+v %v", cmd, err)
	}
	for range 2 {
		for _, m := range c.all {
			c.at(m, "lost", Cancelled)
			c.at(m, "told", Cancelled)
		}
		c.flush()
	}
	if c.due("told") || !c.due("lost") {
		t.Errorf("to be told: %v %v", c.due("told"), c.due("lost"))
	}
	_, err = c.redis.ZAdd(due, 1, vin+"/lost") // the time of the gateway that decided it is over
	check.OK(t, err)
	c.published("lost", Queued, Cancelled)
	check.Eventually(t, "the end to be told", func() bool { return !c.due("lost") })
	for range 2 { // what one gateway has published the other one need not know
		c.flush()
		if c.due("lost") || c.due("told") {
			t.Errorf("to be told again: %v %v", c.due("lost"), c.due("told"))
		}
	}
	c.published("told", Queued, Cancelled)
}

// due reports whether a gateway has to publish the end of a command.
func (c *together) due(id string) bool {
	all, err := c.redis.ZMembers("cellgate:cell-1:due")
	if err != nil {
		return false
	}
	return slices.Contains(all, vin+"/"+id)
}

// TestLateAfterAFlush: Redis has the times of a vehicle's late reports again after a flush. By them a gateway that replays its
// journal knows what Redis has of it.
func TestLateAfterAFlush(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 1)
	m := c.all[0]
	c.connects(m, vin)
	create(t, m.Service, Request{ID: "c1", TTL: 5 * time.Second})
	d := m.engine.next(t)
	c.at(m, "c1", Expired)
	var before [2]cell.Record
	for i, status := range []State{Accepted, Succeeded} {
		m.says(d.Topic, status)
		for j := range before {
			a, err := m.store.Look(t.Context(), vin, "c1")
			check.OK(t, err)
			before[j] = a.Record
			if j == 0 {
				c.flush()
			}
		}
		if was, is := before[0], before[1]; was.LateAccepted == 0 || (was.Late == 0) != (i == 0) || was.LateAccepted != is.LateAccepted || was.Late != is.Late {
			t.Errorf("%s: before %d, %d; after the flush %d, %d", status, was.LateAccepted, was.Late, is.LateAccepted, is.Late)
		}
	}
}

// inACluster returns a service that knows only what it offers to a Redis cluster. It does not call it.
func inACluster(t testing.TB, db *statefile.DB) *Service {
	t.Helper()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	store, err := cell.NewStore(client, "cell-1", cell.Confirmation{Wait: time.Second}, time.Hour)
	check.OK(t, err)
	return &Service{o: Options{DB: db, Cell: &Cell{Store: store}}, unwritten: newUnwritten()}
}

// TestOffersInACluster: in a Redis cluster a command is offered in the slot of its vehicle and in that of its id, which another
// server may have; also one that is not on disk yet, and those that came after the index of slots was built. An answer that was
// on its way during either offer is not taken.
func TestOffersInACluster(t *testing.T) {
	t.Parallel()
	own := newTogether(t, 1).all[0]
	s := inACluster(t, own.o.DB)
	offered := func(slot int) (ids []string) {
		for r, err := range s.Remembered(slot) {
			check.OK(t, err)
			ids = append(ids, r.ID)
		}
		return ids
	}
	held := decision{Answer: cell.Answer{Record: cell.Record{VIN: vin, ID: "held", State: "queued"}}}
	slots := s.o.Cell.slotsOf(vin, "held")
	if !s.unwritten.take(slots, s.unwritten.begin(slots), &held) {
		t.Error("an answer was not taken")
	}
	create(t, own.Service, Request{ID: "first"})
	_ = offered(0) // builds the index
	create(t, own.Service, Request{ID: "second"})
	for _, id := range []string{"held", "first", "second"} {
		for _, slot := range s.o.Cell.slotsOf(vin, id) {
			began := s.unwritten.begin(s.o.Cell.slotsOf(vin, id))
			if got := offered(slot); !slices.Contains(got, id) {
				t.Errorf("%s in slot %d: %q", id, slot, got)
			}
			if s.unwritten.take(s.o.Cell.slotsOf(vin, id), began, &decision{}) {
				t.Errorf("%s: an answer from before the offer in slot %d was taken", id, slot)
			}
		}
	}
	s.slots.size = 2*2 + maxForgotten + 1 // what is forgotten leaves the index some time
	if got := offered(s.o.Cell.slotsOf(vin, "first")[1]); !slices.Contains(got, "first") || s.slots.size != 2 {
		t.Errorf("first: %q; the index lists %d commands", got, s.slots.size)
	}
	if other := s.o.Cell.slotsOf("another", "another"); len(offered(other[0])) != 0 {
		t.Errorf("in another slot: %q", offered(other[0]))
	}
	held.held.release()
	if got := offered(slots[1]); slices.Contains(got, "held") {
		t.Errorf("an answer is held for ever: %q", got)
	}
}

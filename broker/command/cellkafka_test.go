package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/broker/cell"
	"cellgate/test/check"
)

// partition is a partition of vehicle.commands that every gateway reads.
type partition struct {
	mu   sync.Mutex
	all  []Message
	more chan struct{}
}

// reading is a gateway's position in it.
type reading struct {
	*partition
	at, given int
	accepted  atomic.Int64
}

func (*reading) Partition() string { return "vehicle.commands/0" }

func (r *reading) Resume(context.Context, []byte) error { return nil }

func (r *reading) Fetch(ctx context.Context) ([]Message, []byte, error) {
	for {
		r.mu.Lock()
		some := r.all[r.at:min(len(r.all), r.at+16)]
		r.mu.Unlock()
		if r.given = r.at + len(some); len(some) > 0 {
			return some, []byte{1}, nil
		}
		select {
		case <-r.more:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func (r *reading) Accepted() {
	r.at = r.given
	r.accepted.Store(int64(r.at))
}

// TestKafkaAtEveryGateway checks that what every gateway reads is accepted, delivered and published once; so are
// refusals.
func TestKafkaAtEveryGateway(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 3)
	p := &partition{more: make(chan struct{})}
	vehicles := []string{"V0", "V1", "V2"}
	for i, v := range vehicles {
		c.connects(c.all[i], v)
	}
	const n = 90
	record := func(id, vin, name string, age time.Duration) Message {
		return Message{Ref: "ref-" + id, At: time.Now().Add(-age), Value: []byte(`{"id":"` + id + `","vin":"` + vin + `","name":"` + name + `","ttl":"60s"}`)}
	}
	for i := range n {
		p.all = append(p.all, record(fmt.Sprintf("k%d", i), vehicles[i%3], "lock", 0))
	}
	p.all = append(p.all, record("late", "V0", "lock", 2*time.Minute), record("bad", "V0", "a/b", 0))
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for _, m := range c.all {
		readers.Go(func() { _ = m.Consume(ctx, &reading{partition: p}) })
	}
	for i, m := range c.all {
		var got []string
		for range n / 3 {
			d := m.engine.next(t)
			got = append(got, strings.Split(d.Topic, "/")[3])
			m.acts(d, Succeeded)
		}
		for k, id := range got {
			if id != fmt.Sprintf("k%d", 3*k+i) {
				t.Errorf("%s was sent %s at place %d", vehicles[i], id, k)
			}
		}
	}
	for i := range n {
		c.published(fmt.Sprintf("k%d", i), Queued, Sent, Delivered, Succeeded)
	}
	c.published("late", Expired)
	c.published("bad", Rejected)
	cancel()
	readers.Wait()
}

// TestLostRefusal checks that a gateway publishes its refusal although Redis' answer was lost, or it was killed before
// publishing.
func TestLostRefusal(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	p := &partition{more: make(chan struct{}), all: []Message{{Ref: "r", At: time.Now(), Value: []byte(`{"id":"bad","vin":"V","name":"a/b","ttl":"60s"}`)}}}
	by := c.all[1]
	a, err := by.store.Refuse(t.Context(), by.offered(&Request{ID: "bad", VIN: "V", TTL: time.Minute}, "d"), string(Rejected), "why")
	if err != nil || a.Verdict != cell.OK {
		t.Fatal(a, err)
	}
	expired := Message{Ref: "e", At: time.Now().Add(-time.Minute), Value: []byte(`{"id":"old","vin":"V","name":"do","ttl":"1s"}`)}
	p.all = append(p.all, expired)
	old, _ := by.fromKafka(&expired) // a valid command, which Accept finds refused
	if a, err = by.store.Refuse(t.Context(), by.offered(&old.Request, digestText(old.digest())), string(Expired), "not_sent"); err != nil || a.Verdict != cell.OK {
		t.Fatal(a, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for _, m := range c.all {
		readers.Go(func() { _ = m.Consume(ctx, &reading{partition: p}) })
	}
	c.published("bad", Rejected)
	c.published("old", Expired)
	cancel()
	readers.Wait()

	// Another caller reads it between the lost answer and the retry.
	one := &asked{Request: Request{ID: "late", VIN: "V", TTL: time.Minute, At: time.Now()}, found: errExpired}
	by.set(errors.New("no answer"))
	if by.refuseOnce(t.Context(), one) == nil {
		t.Error("an answer while Redis is away")
	}
	by.set(nil)
	_, err = by.store.Refuse(t.Context(), by.offered(&one.Request, "d"), string(Expired), "why")
	check.OK(t, err)
	_, err = by.Get(t.Context(), "V", "late")
	check.OK(t, err)
	if err := by.refuseOnce(t.Context(), one); err != nil || one.elsewhere {
		t.Error(err, "nobody tells of it")
	}
	check.OK(t, by.submit(t.Context(), true, func(b *batch) error {
		_, _, _ = b.take(&one.Request, one.found, true)
		return nil
	}))
	c.published("late", Expired)
}

// TestKafkaWhileRedisIsAway checks that the consumer keeps its position, and that expired records are not accepted
// afterwards.
func TestKafkaWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 1)
	m := c.all[0]
	m.set(errors.New("no answer for 2 s"))
	at := time.Now()
	p := &partition{more: make(chan struct{}), all: []Message{
		{Ref: "r1", At: at, Value: []byte(`{"id":"k1","vin":"V","name":"lock","ttl":"1s"}`)},
		{Ref: "r2", At: at, Value: []byte(`{"id":"k2","vin":"V","name":"lock","ttl":"1h"}`)},
	}}
	r := &reading{partition: p}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Consume(ctx, r) }()
	check.Eventually(t, "the first one's time to be over", func() bool { return time.Since(at) > time.Second })
	m.set(nil)
	c.published("k1", Expired)
	c.published("k2", Queued)
	check.Eventually(t, "it to go on after both", func() bool { return r.accepted.Load() == 2 })
	cancel()
	<-done
}

// TestListsTogether pages through the cell's commands at a gateway that accepted none of them.
func TestListsTogether(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	for i := range 30 {
		create(t, a.Service, Request{ID: fmt.Sprintf("c%02d", i), VIN: fmt.Sprintf("V%d", i%2), TTL: time.Hour})
		if i < 10 {
			_, err := a.Cancel(t.Context(), Caller{}, fmt.Sprintf("V%d", i%2), fmt.Sprintf("c%02d", i))
			check.OK(t, err)
		}
	}
	for _, x := range []struct {
		f    Filter
		want int
	}{
		{Filter{}, 30},
		{Filter{State: Queued}, 20},
		{Filter{State: Cancelled}, 10},
		{Filter{State: Sent}, 0},
		{Filter{VIN: "V1"}, 15},
		{Filter{VIN: "V0", State: Queued}, 10},
		{Filter{VIN: "V1", State: Cancelled}, 5},
		{Filter{ID: "c03"}, 1},
		{Filter{VIN: "V2"}, 0},
	} {
		seen := map[string]bool{}
		for x.f.Limit = 7; ; {
			page, cursor, err := b.List(t.Context(), x.f)
			if err != nil || len(page) > 7 {
				t.Fatalf("%+v: %d %v", x.f, len(page), err)
			}
			for _, cmd := range page {
				if seen[cmd.ID] || x.f.State != "" && cmd.State != x.f.State || x.f.VIN != "" && cmd.VIN != x.f.VIN || cmd.Name != "lock" {
					t.Errorf("%+v: %+v", x.f, cmd)
				}
				seen[cmd.ID] = true
			}
			if x.f.Cursor = cursor; cursor == "" {
				break
			}
		}
		if len(seen) != x.want {
			t.Errorf("%+v: %d commands, want %d", x.f, len(seen), x.want)
		}
	}
	if _, _, err := b.List(t.Context(), Filter{Cursor: "!"}); !errors.Is(err, errCursor) {
		t.Error(err)
	}
}

// TestRedisForgets flushes Redis: the commands on the gateways' disks are unchanged and continue.
func TestRedisForgets(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 2)
	a, b := c.all[0], c.all[1]
	c.connects(b, vin)
	create(t, a.Service, Request{ID: "c1", Payload: []byte(`{"n":1}`), JSON: true})
	d := b.engine.next(t)
	create(t, a.Service, Request{ID: "c2", VIN: "OTHER", Payload: []byte("\x00\xff"), Urgent: true})
	_, err := b.Cancel(t.Context(), Caller{}, "OTHER", "c2")
	check.OK(t, err)
	create(t, a.Service, Request{ID: "c3", VIN: "OTHER"})
	c.redis.FlushAll()
	for _, m := range c.all {
		if _, err := m.Get(t.Context(), vin, "c1"); !errors.Is(err, errUnknown) {
			t.Errorf("before all is offered: %v", err)
		}
	}
	memory := cell.Memory{Remembers: true, Gen: 1, Members: []string{"gw-1", "gw-2"}}
	for _, m := range c.all {
		m.store.Rejoin(t.Context(), m.name, []cell.Offering{{Memory: memory, Remembered: m.Remembered(0)}}, false, func(_ map[int]cell.Joined, err error) bool {
			check.OK(t, err)
			return true
		})
	}
	c.connects(b, vin)
	c.at(a, "c2", Cancelled)
	c.at(b, "c3", Queued)
	if cmd, err := b.Get(t.Context(), "OTHER", "c2"); err != nil || !cmd.Urgent || string(cmd.PayloadBase64) != "\x00\xff" || cmd.TTL != "1m" {
		t.Errorf("%+v %v", cmd, err)
	}
	b.acts(d, Succeeded)
	c.at(a, "c1", Succeeded)
	c.published("c1", Queued, Sent, Delivered, Succeeded)
	c.published("c2", Queued, Cancelled)
}

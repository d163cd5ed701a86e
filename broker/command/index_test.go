package command

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"cellgate/test/check"
)

// fill writes finished commands: of the first vehicle the oldest, and of the second all others.
func fill(t testing.TB, s *Service, first, others string, n int) {
	t.Helper()
	check.OK(t, s.submit(t.Context(), true, func(b *batch) error {
		for i := range n {
			vin := others
			if i == 0 {
				vin = first
			}
			seq, err := b.t.meta().NextSequence()
			if err != nil {
				return err
			}
			// Not in the bucket of ended commands: retention leaves them alone.
			if err := b.t.meta().Put(key(seq), []byte(`{"id":"f`+strconv.Itoa(i)+`","vin":"`+vin+`","state":"cancelled"}`)); err != nil {
				return err
			}
			b.t.changed = append(b.t.changed, changed{seq, vin, Cancelled})
		}
		return nil
	}))
}

// TestAnOldCommandIsListed: a vehicle's command is on the first page of its list, however many commands of others came later, and
// a filter without a match has a single empty page.
func TestAnOldCommandIsListed(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	s := start(t, Options{DB: db, Deliverer: newEngine(0)})
	fill(t, s, "OLD", "NEW", 50_100)
	for run := range 2 {
		for _, c := range []struct {
			f    Filter
			want string
		}{{Filter{VIN: "OLD"}, "f0"}, {Filter{VIN: "NONE"}, ""}, {Filter{State: Failed}, ""}, {Filter{VIN: "OLD", State: Cancelled}, "f0"}} {
			page, cursor, err := s.List(context.Background(), c.f)
			got := ""
			for i := range page {
				got += page[i].ID
			}
			if err != nil || cursor != "" || got != c.want {
				t.Errorf("run %d, %+v: %q, next page %q, %v", run, c.f, got, cursor, err)
			}
		}
		stop(t, s)
		if run == 0 {
			s = start(t, Options{DB: db, Deliverer: newEngine(0)})
		}
	}
}

type listedCommand struct {
	vin   string
	state State
}

// listed returns the last commands before a sequence that a filter admits.
func listed(all map[uint64]listedCommand, f Filter, before uint64, limit int) (found []uint64) {
	for seq, c := range all {
		if seq < before && (f.VIN == "" || c.vin == f.VIN) && (f.State == "" || c.state == f.State) {
			found = append(found, seq)
		}
	}
	slices.Sort(found)
	slices.Reverse(found)
	return found[:min(limit, len(found))]
}

// TestIndexFindsWhatThereIs compares the index with a plain list, while it is built and later.
func TestIndexFindsWhatThereIs(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	x := newIndex()
	all := map[uint64]listedCommand{}
	var seen []indexed
	last := uint64(0)
	for round := range 3000 {
		if round == 300 { // what a transaction sees, though the index has got some of it already
			for seq, c := range all {
				seen = append(seen, x.entry(changed{seq, c.vin, c.state}))
			}
			slices.SortFunc(seen, func(a, b indexed) int { return cmp.Compare(a.seq, b.seq) })
		}
		if round == 500 {
			x.late = x.late[200:]
			x.complete(seen, nil)
		}
		c := changed{seq: 1 + r.Uint64N(last+1), vin: "V" + strconv.Itoa(r.IntN(5)), state: States()[r.IntN(len(States()))]}
		if old, known := all[c.seq]; known {
			c.vin = old.vin
		}
		if last = max(last, c.seq); r.IntN(3) == 0 {
			c.state = ""
			delete(all, c.seq)
		} else {
			all[c.seq] = listedCommand{c.vin, c.state}
		}
		x.change([]changed{c})
		if round < 500 {
			continue
		}
		f := Filter{}
		if r.IntN(2) == 0 {
			f.VIN = "V" + strconv.Itoa(r.IntN(6))
		}
		if r.IntN(2) == 0 {
			f.State = States()[r.IntN(len(States()))]
		}
		before, limit := 1+r.Uint64N(last+2), 1+r.IntN(20)
		want := listed(all, f, before, limit)
		if got, err := x.find(&f, before, limit); err != nil || !slices.Equal(got, want) {
			t.Fatalf("round %d, %+v before %d, at most %d: %v, want %v, %v", round, f, before, limit, got, want, err)
		}
	}
	if len(x.all) > 2*len(all)+1 {
		t.Errorf("%d places for %d commands", len(x.all), len(all))
	}
}

// A list has the commands that a call before it has shown, although the state file shows these before the index has them.
func TestAListHasWhatIsKnownBefore(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0), MaxQueued: 1000})
	for i := range 50 {
		id := "c" + strconv.Itoa(i)
		go func() {
			_, _, _ = s.Create(context.Background(), Request{VIN: vin, ID: id, Name: "lock", TTL: time.Hour})
		}()
		for {
			if _, err := s.Get(t.Context(), vin, id); err == nil {
				break
			}
		}
		if page, _, err := s.List(t.Context(), Filter{VIN: vin, Limit: 1}); err != nil || len(page) != 1 || page[0].ID != id {
			t.Fatalf("%s is known, and the list begins with %+v, %v", id, page, err)
		}
	}
}

// BenchmarkList reads the first page of a vehicle's commands, of which there are 100,000 later ones of others.
func BenchmarkList(b *testing.B) {
	s := start(b, Options{DB: openDB(b), Deliverer: newEngine(0)})
	fill(b, s, "OLD", "NEW", 100_000)
	for b.Loop() {
		if page, _, err := s.List(context.Background(), Filter{VIN: "OLD"}); err != nil || len(page) != 1 {
			b.Fatal(fmt.Sprint(len(page), err))
		}
	}
	stop(b, s)
}

package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestFindIsTheFirstOfAllInOrder compares Find with sorting all sessions.
func TestFindIsTheFirstOfAllInOrder(t *testing.T) {
	t.Parallel()
	var r registry
	r.init()
	var ids []string
	for _, n := range rand.Perm(3000) {
		id := fmt.Sprintf("%cTEST%06d", 'K'+n%3, n)
		ids = append(ids, id)
		r.put(&state{id: id})
	}
	slices.Sort(ids)
	for _, c := range []struct {
		prefix, after string
		limit         int
	}{{"", "", 10}, {"LTEST", "", 50}, {"LTEST", ids[1500], 7}, {"L", "", 5000}, {"none", "", 10}, {"", ids[2999], 10}, {"", "", 0}, {"", "", 1}} {
		var want []string
		for _, id := range ids {
			if strings.HasPrefix(id, c.prefix) && id > c.after && len(want) < c.limit {
				want = append(want, id)
			}
		}
		var got []string
		for _, st := range r.first(c.prefix, c.after, c.limit) {
			got = append(got, st.id)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d, want %d", c, len(got), len(want))
		}
	}
}

// BenchmarkFind reads a page of 100,000 sessions.
func BenchmarkFind(b *testing.B) {
	var r registry
	r.init()
	for _, n := range rand.Perm(100_000) {
		r.put(&state{id: fmt.Sprintf("LTEST%012d", n)})
	}
	for b.Loop() {
		if len(r.first("LTEST", "", 1000)) != 1000 {
			b.Fatal("not a page")
		}
	}
}

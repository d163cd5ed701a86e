package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"sync"
	"time"

	"cellgate/broker/shared/statefile"
)

// index has vehicle and state of every command in the state file, 24 bytes each, so that a list reads from the file only what
// it shows. It is built while the service already works.
type index struct {
	seed  maphash.Seed
	built chan struct{} // closed when all is complete, or failed is set
	// committing has capacity 1 and is full from before a transaction until its changes are here, so that a list has what others
	// have seen before it.
	committing chan struct{}

	mu     sync.RWMutex // guards below
	all    []indexed    // in the order of acceptance
	gone   int          // of them, those that are forgotten
	late   []changed    // while the index is built, in their order
	failed error
}

// indexed is a command in the index.
type indexed struct {
	seq   uint64
	vin   uint64 // a hash: two vehicles may have the same
	state uint8  // of codeOf
}

// forgotten is the state of a command that the state file does not have any more.
const forgotten = 0

// codeOf returns a number for a state; all that this version does not know have the same.
func codeOf(s State) uint8 {
	if s == "" {
		return forgotten
	}
	return uint8(slices.Index(States(), s) + 2) //nolint:gosec // there are 10
}

func (x *index) entry(c changed) indexed {
	return indexed{c.seq, maphash.String(x.seed, c.vin), codeOf(c.state)}
}

func newIndex() *index {
	return &index{seed: maphash.MakeSeed(), built: make(chan struct{}), committing: make(chan struct{}, 1)}
}

// build reads all commands. It ends early when ctx does.
func (x *index) build(ctx context.Context, db *statefile.DB) {
	var all []indexed
	err := db.View(func(tx *statefile.Tx) error {
		return tablesOf(tx).meta().ForEach(func(k, v []byte) error {
			var r struct {
				VIN   string `json:"vin"`
				State State  `json:"state"`
			}
			if json.Unmarshal(v, &r) != nil {
				r.State = "unreadable" // a list that includes it shows this
			}
			all = append(all, x.entry(changed{number(k), r.VIN, r.State}))
			return ctx.Err()
		})
	})
	x.complete(all, err)
}

// complete takes what build has read, and the changes since.
func (x *index) complete(all []indexed, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all, x.failed = all, err
	for _, c := range x.late {
		x.set(x.entry(c))
	}
	x.late = nil
	close(x.built)
}

// during is called before a transaction, and what it returns after it, with the changes that are on disk.
func (x *index) during() (end func([]changed)) {
	if x == nil {
		return func([]changed) {}
	}
	x.committing <- struct{}{}
	return func(some []changed) {
		x.change(some)
		<-x.committing
	}
}

// commitPatience is how long a list waits for a transaction: a disk that hangs does not hide what is known.
const commitPatience = time.Second

// awaitCommits waits until the changes of a transaction under way are here.
func (x *index) awaitCommits(ctx context.Context) error {
	select {
	case x.committing <- struct{}{}:
		<-x.committing
	case <-time.After(commitPatience):
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-x.built:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (x *index) change(some []changed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.built:
	default:
		x.late = append(x.late, some...)
		return
	}
	for _, c := range some {
		x.set(x.entry(c))
	}
}

func (x *index) set(e indexed) {
	at, found := slices.BinarySearchFunc(x.all, e, func(a, b indexed) int { return cmp.Compare(a.seq, b.seq) })
	switch {
	case !found && e.state != forgotten:
		x.all = slices.Insert(x.all, at, e)
	case found && e.state != forgotten:
		x.all[at] = e
	case found && x.all[at].state != forgotten:
		x.all[at].state = forgotten
		if x.gone++; x.gone > len(x.all)/2 {
			x.all, x.gone = slices.DeleteFunc(x.all, func(e indexed) bool { return e.state == forgotten }), 0
		}
	}
}

// find returns up to limit commands before a sequence, the latest first. They match the filter, except that another vehicle may
// have the hash of the filter's.
func (x *index) find(f *Filter, before uint64, limit int) (found []uint64, err error) {
	vin, state := maphash.String(x.seed, f.VIN), codeOf(f.State)
	x.mu.RLock()
	defer x.mu.RUnlock()
	end, _ := slices.BinarySearchFunc(x.all, before, func(e indexed, seq uint64) int { return cmp.Compare(e.seq, seq) })
	for i := end - 1; i >= 0 && len(found) < limit; i-- {
		if e := &x.all[i]; e.state != forgotten && (f.State == "" || e.state == state) && (f.VIN == "" || e.vin == vin) {
			found = append(found, e.seq)
		}
	}
	return found, x.failed
}

// listLocal is List with one gateway.
func (s *Service) listLocal(ctx context.Context, f *Filter) (page []Command, cursor string, err error) {
	before, err := f.before()
	if err != nil {
		return nil, "", err
	}
	if err := s.index.awaitCommits(ctx); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errStore, err)
	}
	for {
		found, err := s.index.find(f, before, f.Limit-len(page)+1)
		more := len(found) > f.Limit-len(page)
		if more {
			found = found[:len(found)-1]
		}
		if err == nil {
			err = s.o.DB.View(func(tx *statefile.Tx) (err error) {
				t := tablesOf(tx)
				page, err = t.list(page, f, found)
				return err
			})
		}
		switch {
		case err != nil:
			return nil, "", fmt.Errorf("%w: %w", errStore, err)
		case !more:
			return page, "", nil
		}
		before = found[len(found)-1]
		if len(page) == f.Limit {
			return page, strconv.FormatUint(before, cursorBase), nil
		}
	}
}

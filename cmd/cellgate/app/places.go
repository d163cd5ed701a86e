package app

import (
	"context"
	"net/http"
	"sync"

	"cellgate/auth"
)

// ownerOf returns whose share a call of the API uses: issuer, role and subject of its token.
func ownerOf(r *http.Request) string {
	id, _ := auth.IdentityFrom(r.Context())
	return id.SessionKey(id.Subject)
}

// places bounds concurrent work: in total, and to one piece per owner. However many calls an owner makes, others get a
// place as soon as one piece is done.
type places struct {
	all chan struct{}

	mu     sync.Mutex
	queues map[string]*queue
}

// queue serializes the calls of one owner.
type queue struct {
	turn  chan struct{}
	calls int
}

func newPlaces(most int) *places {
	return &places{all: make(chan struct{}, most), queues: map[string]*queue{}}
}

// enter waits for a place until ctx ends. leave releases it.
func (p *places) enter(ctx context.Context, owner string) (leave func(), err error) {
	p.mu.Lock()
	q := p.queues[owner]
	if q == nil {
		q = &queue{turn: make(chan struct{}, 1)}
		p.queues[owner] = q
	}
	q.calls++
	p.mu.Unlock()
	taken := []chan struct{}{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if q.calls--; q.calls == 0 {
			delete(p.queues, owner)
		}
	}
	for _, c := range []chan struct{}{q.turn, p.all} {
		select {
		case c <- struct{}{}:
			taken = append(taken, c)
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	return leave, nil
}

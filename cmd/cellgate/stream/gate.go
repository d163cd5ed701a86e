package stream

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/auth"
	"cellgate/broker/shared/metric"
)

// Bounds of streams.
const (
	mostStreams    = 64
	MostPerSubject = 8
)

// errTooMany is returned for a stream beyond the bounds.
var errTooMany = errors.New("too many streams are open")

// Reasons for the end of a stream, in its last event and in the metric.
const (
	EndGone     = "gone"     // the reader went away
	EndSlow     = "slow"     // the reader did not keep up
	EndToken    = "token"    // expired, revoked, or its key retired
	EndShutdown = "shutdown" // the gateway stops
	EndFinal    = "final"    // there is nothing more to come
)

// Gate admits streams, and ends those whose tokens have ended.
type Gate struct {
	most  int
	ended *prometheus.CounterVec

	mu     sync.Mutex // guards below
	open   map[*Feed]auth.Identity
	owned  map[string]int
	closed bool
}

// NewGate makes a gate for a maximum number of streams.
func NewGate(most int, reg prometheus.Registerer) *Gate {
	g := &Gate{most: max(1, min(most, mostStreams)), open: make(map[*Feed]auth.Identity), owned: make(map[string]int)}
	to := metric.For(reg)
	to.GaugeFunc("streams", "Open streams of server-sent events.", func() float64 { return float64(g.count()) })
	to.GaugeFunc("streams_max", "Bound of streams.", func() float64 { return float64(g.most) })
	g.ended = to.Counters("streams_ended_total", "Ended streams by reason: gone (the reader left), slow, token, shutdown, final.", "reason")
	return g
}

func (g *Gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

func ownerOf(id *auth.Identity) string { return id.Issuer + "\x00" + id.Role + "\x00" + id.Subject }

// Enter returns the feed of a new stream. The caller calls Leave.
func (g *Gate) Enter(id auth.Identity) (*Feed, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	owner := ownerOf(&id)
	if g.closed || len(g.open) >= g.most || g.owned[owner] >= MostPerSubject {
		return nil, errTooMany
	}
	f := &Feed{wake: make(chan struct{}, 1)}
	g.open[f] = id
	g.owned[owner]++
	return f, nil
}

// Leave releases the place of a stream.
func (g *Gate) Leave(f *Feed) {
	g.mu.Lock()
	id, known := g.open[f]
	if known {
		delete(g.open, f)
		owner := ownerOf(&id)
		if g.owned[owner]--; g.owned[owner] == 0 {
			delete(g.owned, owner)
		}
	}
	g.mu.Unlock()
	if known {
		g.ended.WithLabelValues(f.End(EndGone)).Inc()
	}
}

// Ended ends the streams whose tokens are no longer valid: see (*auth.Authority).WatchEnded.
func (g *Gate) Ended(ended func(auth.Identity) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for f, id := range g.open {
		if ended(id) != nil {
			f.End(EndToken)
		}
	}
}

// Close ends all streams and admits no more.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for f := range g.open {
		f.End(EndShutdown)
	}
}

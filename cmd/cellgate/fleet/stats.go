package fleet

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// stats counts the fleet's events. All methods may be called from any goroutine.
type stats struct {
	begin      time.Time
	connected  atomic.Int64
	connects   atomic.Uint64 // accepted CONNECTs
	lost       atomic.Uint64 // connections that the fleet did not end
	reconnects atomic.Uint64 // accepted CONNECTs after the first
	refused    atomic.Uint64 // refused CONNECTs
	sent       atomic.Uint64 // messages published, resends not counted
	acked      atomic.Uint64
	rejected   atomic.Uint64 // PUBACKs with a refusal
	resent     atomic.Uint64
	skipped    atomic.Uint64 // due but not published: not connected, or the window was full
	commands   atomic.Uint64 // commands answered
	alarms     atomic.Uint64
	bytes      atomic.Uint64 // of PUBLISH frames

	latency stripes // PUBLISH to PUBACK
	connect stripes // dial to CONNACK

	mu      sync.Mutex
	reasons map[string]uint64 // of refusals and lost connections
}

func newStats() *stats {
	return &stats{begin: time.Now(), reasons: make(map[string]uint64)}
}

// maxReasons bounds the reasons counted separately; further ones count as "other".
const maxReasons = 32

func (s *stats) reason(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.reasons[text]; !known && len(s.reasons) >= maxReasons {
		text = "other"
	}
	s.reasons[text]++
}

func (s *stats) reasonsCopy() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(map[string]uint64, len(s.reasons))
	for k, v := range s.reasons {
		c[k] = v
	}
	return c
}

// Latencies are recorded in microseconds with two significant digits, from 1 µs to two minutes.
const (
	latencyMax    = 120_000_000
	latencyDigits = 2
	stripeCount   = 8
)

// stripes is a latency histogram whose lock is divided among the vehicles.
type stripes [stripeCount]stripe

type stripe struct {
	mu    sync.Mutex
	total *hdrhistogram.Histogram
	since *hdrhistogram.Histogram // since the last summary line
}

func (s *stripes) record(stripe int, d time.Duration) { s.recordAll(stripe, []time.Duration{d}) }

func (s *stripes) recordAll(stripe int, ds []time.Duration) {
	p := &s[stripe%stripeCount]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total == nil {
		p.total = hdrhistogram.New(1, latencyMax, latencyDigits)
		p.since = hdrhistogram.New(1, latencyMax, latencyDigits)
	}
	for _, d := range ds {
		us := min(max(d.Microseconds(), 1), latencyMax)
		_ = p.total.RecordValue(us) // cannot be out of range
		_ = p.since.RecordValue(us)
	}
}

// all returns the whole distribution.
func (s *stripes) all() *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, latencyMax, latencyDigits)
	for i := range s {
		p := &s[i]
		p.mu.Lock()
		if p.total != nil {
			h.Merge(p.total)
		}
		p.mu.Unlock()
	}
	return h
}

// recent returns the distribution since the last call.
func (s *stripes) recent() *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, latencyMax, latencyDigits)
	for i := range s {
		p := &s[i]
		p.mu.Lock()
		if p.since != nil {
			h.Merge(p.since)
			p.since.Reset()
		}
		p.mu.Unlock()
	}
	return h
}

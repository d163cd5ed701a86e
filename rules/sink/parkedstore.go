package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/broker/wal"
)

// ParkedLimits bound parked messages.
type ParkedLimits struct {
	// Bytes limits all logs together on disk.
	Bytes int64
	// DestinationBytes limits one destination's log.
	DestinationBytes int64
	// Destinations limits the parked destinations. A quarter is reserved for error topics.
	Destinations int
}

// segmentBytes returns the segment size of a destination's log: small, so that sent messages are soon removed.
func (l *ParkedLimits) segmentBytes() int64 { return min(8<<20, max(4<<10, l.DestinationBytes/8)) }

// errFull sends a message to its rule's error topic because its parked destination has no room.
var errFull = errors.New("the destination accepts no records, and no more can be parked for it")

// errMany is the same for a destination that cannot be parked because of their number.
var errMany = errors.New("the destination accepts no records, and no more destinations can be parked")

// parkedStore keeps the parked messages: one log per parked destination, on disk and in order. A message in such a log occupies
// no place in its sink's window and holds back neither the sink's cursor nor the journal. When the destination takes
// messages again, they are sent from the log; once the log is read to its end, the sink continues by itself.
//
// One goroutine, run, writes and reads all logs. mu is locked before a pipeline's mutex.
type parkedStore struct {
	env    *environment
	fs     wal.FS
	dir    string
	epoch  uint64 // of the journal
	limits ParkedLimits
	log    *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	dests map[destKey]*destination
	// closed are the destinations that sinks pass to Park, with or without a log.
	closed map[destKey]bool
	ended  []*destination // empty; their logs are removed once a checkpoint without them is stored
	lastID uint64

	// Owned by run.
	buf     []byte
	src     recordSource
	decoder message.Decoder
	form    form
}

// deadLetterSink is the sink for dead letters.
const deadLetterSink = "kafka"

// destKey identifies a destination by sink and name.
type destKey struct{ sink, name string }

func (k destKey) String() string { return k.sink + " " + k.name }

// parking is a message to be parked.
type parking struct {
	t      Ticket // of its owner
	owner  *pipeline
	dead   bool   // it is the dead letter of t
	reason string // for the dead letter
}

func newParkedStore(o *Options, env *environment) *parkedStore {
	return &parkedStore{
		env: env, fs: o.FS, dir: filepath.Join(o.Dir, parkedLogs), epoch: o.Journal.Epoch(), limits: o.Parked, log: o.Log,
		wake: make(chan struct{}, 1), dests: map[destKey]*destination{}, closed: map[destKey]bool{},
	}
}

// add queues a message to be parked. It keeps its place in the sink's window until it is in the log.
func (l *parkedStore) add(via *pipeline, dest string, why error, m *parking) {
	l.mu.Lock()
	d := l.destLocked(via, dest, why)
	d.queue = append(d.queue, m)
	l.mu.Unlock()
	l.signal()
}

func (l *parkedStore) destLocked(via *pipeline, dest string, why error) *destination {
	k := destKey{via.name, dest}
	d := l.dests[k]
	if d == nil {
		d = &destination{l: l, via: via, key: k, since: time.Now(), mark: via.window.taken.Load(), lowSet: ^uint32(0)}
		l.dests[k] = d
	}
	if !l.closed[k] || d.why == "" {
		d.why, d.missing = why.Error(), errors.Is(why, ErrMissing)
	}
	l.closed[k] = true
	return d
}

// logFailed reports that a log cannot be written or read; its messages wait.
func (l *parkedStore) logFailed(d *destination, err error) {
	if d.lastErr != err.Error() {
		d.lastErr = err.Error()
		l.log.Error("log of a parked destination failed; its messages wait", "destination", d.key.String(), "err", err)
	}
}

func (l *parkedStore) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// lookAgain is the interval for checking what sends no notification: cursors, room, destinations without a log.
const lookAgain = 50 * time.Millisecond

// run parks and sends until ctx ends.
func (l *parkedStore) run(ctx context.Context) {
	defer l.src.close()
	for ctx.Err() == nil {
		all := l.inOrder()
		for _, d := range all {
			d.step(ctx)
		}
		waits := l.reopen() || len(all) > 0
		l.src.close()
		var timer <-chan time.Time
		if waits {
			timer = time.After(lookAgain)
		}
		select {
		case <-l.wake:
		case <-timer:
		case <-ctx.Done():
		}
	}
}

// inOrder lists the destinations, partitions before their topic.
func (l *parkedStore) inOrder() []*destination {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.dests), func(a, b *destination) int {
		return cmp.Or(cmp.Compare(len(b.key.name), len(a.key.name)), cmp.Compare(a.key.String(), b.key.String()))
	})
}

// reopen makes sinks check whether destinations without a log take messages again.
func (l *parkedStore) reopen() (waits bool) {
	l.mu.Lock()
	var keys []destKey
	for k := range l.closed {
		if l.dests[k] == nil {
			keys = append(keys, k)
		}
	}
	l.mu.Unlock()
	for _, k := range keys {
		if p := l.env.byName[k.sink]; p != nil && p.parker != nil {
			p.parker.Open(k.name, func() bool { return l.opened(k) })
		}
	}
	return len(keys) > 0
}

// opened reports whether nothing is left of a destination's messages. It is called while none can be parked for it.
func (l *parkedStore) opened(k destKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.dests[k]; d != nil && (len(d.queue) > 0 || d.read < d.written) {
		return false
	}
	delete(l.closed, k)
	return true
}

// parts reports whether partitions of a destination are parked: their messages are older.
func (l *parkedStore) parts(k destKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for other := range l.dests {
		if other.sink == k.sink && strings.HasPrefix(other.name, k.name+"/") {
			return true
		}
	}
	return false
}

// room returns why a message cannot be parked; nil if it can. held means that it waits in the window instead: the sink
// takes nothing at all, so the outage is the sink's.
func (l *parkedStore) room(d *destination, dead bool, size int) (held bool, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.limits.Destinations
	if !dead {
		most -= most / 4
	}
	logs, bytes := 0, int64(0)
	for _, other := range l.dests {
		if other.dlog != nil {
			logs++
			bytes += other.size
		}
	}
	switch {
	case d.dlog == nil && logs >= most:
		why = errMany
	case bytes+int64(size) > l.limits.Bytes, d.size+int64(size) > l.limits.DestinationBytes:
		why = errFull
	}
	switch {
	case d.missing:
		return false, why
	case d.partition():
		// A fault of Kafka, which will be repaired: no vehicle can cause it, and the messages must arrive.
		return true, why
	}
	if why != nil && d.via.window.taken.Load() != d.mark && d.spills.IsZero() {
		d.spills = time.Now().Add(spillAfter)
	}
	return d.spills.IsZero() || time.Now().Before(d.spills), why
}

// spillAfter is how long other destinations of a sink must have taken messages before those that cannot be parked are
// dropped: after an outage not all recover at once.
const spillAfter = 2 * time.Second

// lowestSet returns the lowest index of a rule set that parked messages need, the highest number if there are none.
func (l *parkedStore) lowestSet() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	low := ^uint32(0)
	for _, d := range l.dests {
		if d.written > d.cursor || len(d.queue) > 0 {
			low = min(low, d.lowSet)
		}
	}
	return low
}

// endLocked removes an empty destination.
func (l *parkedStore) endLocked(d *destination) {
	delete(l.dests, d.key)
	if d.dlog != nil {
		l.ended = append(l.ended, d)
	}
}

// Parked describes a parked destination.
type Parked struct {
	Sink string `json:"sink"`
	// Destination is a topic, or topic/partition.
	Destination string    `json:"destination"`
	Since       time.Time `json:"since"`
	Reason      string    `json:"reason"`
	Messages    uint64    `json:"messages"`
	Bytes       int64     `json:"bytes"` // on disk
	// Oldest is when the oldest message was received, if known.
	Oldest time.Time `json:"oldest,omitzero"`
}

// parked lists the destinations, most messages first.
func (l *parkedStore) parked() []Parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Parked
	for _, d := range l.dests {
		out = append(out, d.describeLocked())
	}
	slices.SortFunc(out, func(a, b Parked) int {
		return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Sink+a.Destination, b.Sink+b.Destination))
	})
	return out
}

// health returns the state of the destinations for /readyz.
func (l *parkedStore) health() (remote.Health, bool) {
	all := l.parked()
	if len(all) == 0 {
		return remote.Health{}, false
	}
	const named = 5
	h := remote.Health{Name: "parked", Since: all[0].Since}
	var parts []string
	for i, p := range all {
		if p.Since.Before(h.Since) {
			h.Since = p.Since
		}
		if i < named {
			parts = append(parts, fmt.Sprintf("%s %s: %d messages wait: %s", p.Sink, p.Destination, p.Messages, p.Reason))
		}
	}
	if more := len(all) - named; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d destinations more", more))
	}
	h.Reason = strings.Join(parts, "; ")
	return h, true
}

func (l *parkedStore) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.dests {
		if d.dlog != nil {
			d.dlog.Close()
		}
	}
	for _, d := range l.ended {
		d.dlog.Close()
	}
	l.ended = nil
}

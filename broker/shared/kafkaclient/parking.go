package kafkaclient

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Parker takes a record back while its destination takes none, so that it holds no place that others need. The sink's
// messages are Parkers; of what the gateway itself writes nothing is parked.
type Parker interface {
	// Park takes the record back: the producer forgets it and does not report it. It returns false when the record has
	// been parked before and is here to be sent: it waits. dest is the topic, or topic/partition. Park is called in the
	// order of the records and must not block.
	Park(dest string, why error) bool
	// Patient reports that the record waits for a missing topic for as long as that takes.
	Patient() bool
	// Abandoned reports that nobody wants the record any more: the producer asks between two tries of a batch, and gives all
	// of it up with ErrAbandoned when that is so for every record of it.
	Abandoned() bool
}

// A destination that takes no records is parked: the producer gives what comes for it to Parker.Park until Open. It is
//   - a topic that the cluster says it does not have, or that it does not let us use: the topic's name;
//   - a partition whose leader does not take what others take: topic/partition;
//   - a topic that loses partitions, until what was on its way is back.
//
// While a destination is parked, records that Parker.Park does not take go on their way: they come out of where the
// others were parked, in order.
const (
	// wholeTopic is the key of the topic itself among its partitions.
	wholeTopic = -1
	// parkAfter is how long a partition fails before it is parked, and crowded how many records may wait for one that fails.
	parkAfter = 2 * time.Second
	crowded   = 1024
	// besideTries is how many tries in a row must fail while others are successful, and justBefore how long before a try
	// a success counts as beside it.
	besideTries = 3
	justBefore  = time.Second
)

// Park has the producer give records for dest to their Parkers from now on. It is for destinations that were parked before
// a restart.
func (p *Producer) Park(dest string) {
	name, i := splitDest(dest)
	t := p.topic(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked(i, errParkedBefore)
}

// Open lets records for dest through again, if the topic is there and empty says that nothing is parked any more. empty is
// called while nothing can be parked for the destination.
func (p *Producer) Open(dest string, empty func() bool) {
	name, i := splitDest(dest)
	t := p.topic(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	closed := t.parked[i] != nil
	if closed && (len(t.lanes) == 0 || t.resizing) || !empty() || !closed {
		return
	}
	delete(t.parked, i)
	p.o.Log.Info("kafka destination takes records again", "destination", dest)
}

func splitDest(dest string) (topic string, partition int) {
	if name, number, ok := strings.Cut(dest, "/"); ok {
		if i, err := strconv.Atoi(number); err == nil {
			return name, i
		}
	}
	return dest, wholeTopic
}

func (t *topic) destOf(i int) string {
	if i == wholeTopic {
		return t.name
	}
	return t.name + "/" + strconv.Itoa(i)
}

// closeLocked parks a destination of the topic.
func (t *topic) closeLocked(i int, why error) {
	if t.parked[i] != nil {
		return
	}
	if t.parked == nil {
		t.parked = map[int]error{}
	}
	t.parked[i] = why
	if !errors.Is(why, errParkedBefore) {
		t.p.o.Log.Warn("kafka destination takes no records; they are parked", "destination", t.destOf(i), "err", why)
	}
}

// closed reports whether a destination of the topic is parked.
func (t *topic) closed(i int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parked[i] != nil
}

// parkLocked gives a record back if its destination is parked.
func (t *topic) parkLocked(i int, r *Record) bool {
	why := t.parked[i]
	return why != nil && r.Parker != nil && r.Parker.Park(t.destOf(i), why)
}

// parkAllLocked parks a destination and gives back what waits for it. It returns what is not taken back.
func (t *topic) parkAllLocked(i int, why error, recs []*Record) (kept []*Record) {
	t.closeLocked(i, why)
	for _, r := range recs {
		if !t.parkLocked(i, r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// parkWaitingLocked parks the topic with all that waits for its partitions.
func (t *topic) parkWaitingLocked(why error) {
	t.returned = t.parkAllLocked(wholeTopic, why, t.returned)
	t.waiting = t.parkAllLocked(wholeTopic, why, t.waiting)
}

// parkLane parks a partition: what a lane could not deliver, and what waits after it.
func (t *topic) parkLane(l *lane, recs []*Record, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.parkAllLocked(l.partition, why, recs)
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	kept = append(kept, t.parkAllLocked(l.partition, why, l.queue.records)...)
	l.queue.records, l.queue.bytes = kept, 0
	for _, r := range kept {
		l.queue.bytes += r.size()
	}
	l.signal()
}

// takeBack has the topic route records anew that were on their way to a partition that is gone.
func (t *topic) takeBack(recs []*Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.returned = append(t.returned, recs...)
}

// leaving reports whether a partition is going away.
func (t *topic) leaving(l *lane) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resizing && l.partition >= t.target
}

// resizeLocked has the topic use target partitions. It returns false while records are still on their way by the old
// number: a key may live in another partition afterwards.
func (t *topic) resizeLocked(target int) bool {
	if t.target != target || !t.resizing {
		t.target, t.resizing, t.resizingSince = target, true, time.Now()
	}
	busy, late := false, false
	for i, l := range t.lanes {
		if !l.busy() {
			continue
		}
		busy = true
		if leaving := i >= target; leaving {
			l.signal()
			late = true
		}
	}
	if late {
		return false
	}
	if busy {
		// They end by themselves, but nobody knows when: what has come meanwhile must not wait here.
		if len(t.parked) > 0 || time.Since(t.resizingSince) > parkAfter {
			t.parkWaitingLocked(errResized)
		}
		return false
	}
	for i := target; i < len(t.lanes); i++ {
		close(t.lanes[i].gone)
	}
	t.lanes = t.lanes[:min(target, len(t.lanes))]
	for i := len(t.lanes); i < target; i++ {
		t.lanes = append(t.lanes, newLane(t, i))
	}
	t.resizing = false
	// The order of a key holds over the change: what is parked under a partition's name comes before what comes now.
	if len(t.parked) > 0 {
		t.parkWaitingLocked(errResized)
	}
	return true
}

// stuck reports whether a lane is to be parked, and is not yet: it has failed for a time, or many wait for it; and the fault
// is not that of the whole cluster, because a broker has answered, or because others were successful beside each of its last
// tries. A cluster that comes and goes is one that is away: what it holds up is not parked.
func (l *lane) stuck(since time.Time, err error, beside int) bool {
	if (time.Since(since) < parkAfter && l.waiting() < crowded) || l.t.closed(l.partition) {
		return false
	}
	return answered(err) || beside >= besideTries
}

// othersTake reports whether another lane has been successful since a try began, or just before.
func (l *lane) othersTake(began time.Time) bool {
	return l.t.p.lastTaken.Load() > began.Add(-justBefore).UnixNano()
}

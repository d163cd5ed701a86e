package kafkaclient

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Parker takes a record back while its destination is parked, so that it does not occupy room that others need. The
// sink's messages are Parkers; the gateway's own records are never parked.
type Parker interface {
	// Park takes the record back: the producer forgets it without calling Done. It returns false if the record comes
	// out of a parked log and must wait for its destination. dest is the topic, or topic/partition. Park is called in
	// the order of the records and must not block.
	Park(dest string, why error) bool
	// Patient reports whether the record waits for a missing topic without a limit.
	Patient() bool
	// Abandoned reports whether the record is no longer needed. The producer asks between two tries of a batch, and
	// gives the batch up with ErrAbandoned if all its records are abandoned.
	Abandoned() bool
}

// A destination that takes no records is parked: until Open the producer passes its records to Parker.Park.
// Destinations are
//
//   - a topic that the cluster does not have, or does not let us use: the topic's name;
//   - a partition whose leader fails while others succeed: topic/partition;
//   - a topic that loses partitions, until its records in flight are back.
//
// While a destination is parked, records that Parker.Park refuses are sent: they come out of the parked log, in order.
const (
	// wholeTopic is the key of the topic itself among its partitions.
	wholeTopic = -1
	// parkAfter is how long a partition fails before it is parked; crowded is how many records may wait for a failing
	// one.
	parkAfter = 2 * time.Second
	crowded   = 1024
	// failuresAmongSuccesses is how many tries in a row must fail while others succeed; justBefore is how long before a try a
	// success still counts for it.
	failuresAmongSuccesses = 3
	justBefore             = time.Second
)

// Park parks dest from now on. It is for destinations that were parked before a restart.
func (p *Producer) Park(dest string) {
	name, i := splitDest(dest)
	t := p.topic(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked(i, errParkedBefore)
}

// Open lets records for dest through again if the topic exists and empty reports that nothing is parked. While empty
// runs, nothing can be parked for dest.
func (p *Producer) Open(dest string, empty func() bool) {
	name, i := splitDest(dest)
	t := p.topic(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	closed := t.parked[i] != nil
	if closed && (len(t.partitions) == 0 || t.resizing) || !empty() || !closed {
		return
	}
	delete(t.parked, i)
	p.o.Log.Info("kafka destination accepts records again", "destination", dest)
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

func (t *topic) closeLocked(i int, why error) {
	if t.parked[i] != nil {
		return
	}
	if t.parked == nil {
		t.parked = map[int]error{}
	}
	t.parked[i] = why
	if !errors.Is(why, errParkedBefore) {
		t.p.o.Log.Warn("kafka destination accepts no records; they are parked", "destination", t.destOf(i), "err", why)
	}
}

// closed reports whether a destination of the topic is parked.
func (t *topic) closed(i int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parked[i] != nil
}

// parkLocked returns a record to its Parker if its destination is parked.
func (t *topic) parkLocked(i int, r *Record) bool {
	why := t.parked[i]
	return why != nil && r.Parker != nil && r.Parker.Park(t.destOf(i), why)
}

// parkAllLocked parks a destination and its waiting records. It returns those that their Parkers refuse.
func (t *topic) parkAllLocked(i int, why error, recs []*Record) (kept []*Record) {
	t.closeLocked(i, why)
	for _, r := range recs {
		if !t.parkLocked(i, r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// parkWaitingLocked parks the topic and everything that waits for its partitions.
func (t *topic) parkWaitingLocked(why error) {
	t.returned = t.parkAllLocked(wholeTopic, why, t.returned)
	t.waiting = t.parkAllLocked(wholeTopic, why, t.waiting)
}

// parkPartition parks a partition: the records that a writer could not deliver, and those that wait after them.
func (t *topic) parkPartition(l *partitionWriter, recs []*Record, why error) {
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

// takeBack reroutes records that were in flight to a removed partition.
func (t *topic) takeBack(recs []*Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.returned = append(t.returned, recs...)
}

// leaving reports whether a partition is being removed.
func (t *topic) leaving(l *partitionWriter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resizing && l.partition >= t.target
}

// resizeLocked switches the topic to target partitions. It returns false while records are in flight under the previous
// number: afterwards a key may belong to another partition.
func (t *topic) resizeLocked(target int) bool {
	if t.target != target || !t.resizing {
		t.target, t.resizing, t.resizingSince = target, true, time.Now()
	}
	busy, late := false, false
	for i, l := range t.partitions {
		if l.waiting() == 0 {
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
		// Their end cannot be predicted: new records must not wait here.
		if len(t.parked) > 0 || time.Since(t.resizingSince) > parkAfter {
			t.parkWaitingLocked(errResized)
		}
		return false
	}
	for i := target; i < len(t.partitions); i++ {
		close(t.partitions[i].gone)
	}
	t.partitions = t.partitions[:min(target, len(t.partitions))]
	for i := len(t.partitions); i < target; i++ {
		t.partitions = append(t.partitions, newPartitionWriter(t, i))
	}
	t.resizing = false
	// The order of a key survives the change: what is parked under a partition's name precedes new records.
	if len(t.parked) > 0 {
		t.parkWaitingLocked(errResized)
	}
	return true
}

// stuck reports whether a writer must be parked: it has failed for parkAfter, or many records wait for it, and the
// cluster as a whole works, because a broker has answered or other writers succeeded next to each of its last tries. A
// cluster that comes and goes counts as away: its records are not parked.
func (l *partitionWriter) stuck(since time.Time, err error, beside int) bool {
	if (time.Since(since) < parkAfter && l.waiting() < crowded) || l.t.closed(l.partition) {
		return false
	}
	return answered(err) || beside >= failuresAmongSuccesses
}

// othersSucceed reports whether another writer has succeeded since a try began, or just before.
func (l *partitionWriter) othersSucceed(began time.Time) bool {
	return l.t.p.lastTaken.Load() > began.Add(-justBefore).UnixNano()
}

package sink

// tracker keeps the records in flight to one sink, in journal order, from the first unsettled one. The pipeline's mutex
// guards it.
//
// Records without a message for the sink have no entry. Entries may be settled out of order; the cursor moves only over
// a settled prefix.
type tracker struct {
	ring  []entry // its length is a power of two
	first uint64  // slot of the oldest entry
	next  uint64  // slot of the next entry
	open  uint64  // entries with outstanding messages
}

type entry struct {
	seq     uint64
	at      int64 // ReceivedAt
	open    int32 // outstanding messages
	parked  int32 // parked messages: the cursor does not wait for them
	many    bool  // the record has several messages for the sink
	outcome outcome
	reason  string // of dropped
}

func (t *tracker) len() int { return int(t.next - t.first) } //nolint:gosec // bounded by the window

func (t *tracker) at(slot uint64) *entry { return &t.ring[slot&uint64(len(t.ring)-1)] }

// add adds an entry with n ≥ 1 outstanding messages and returns its slot.
func (t *tracker) add(seq uint64, at int64, n int) uint64 {
	if t.len() == len(t.ring) {
		t.grow()
	}
	slot := t.next
	t.next++
	t.open++
	*t.at(slot) = entry{seq: seq, at: at, open: int32(n), many: n > 1} //nolint:gosec // targets of one record
	return slot
}

func (t *tracker) grow() {
	bigger := make([]entry, max(64, 2*len(t.ring)))
	for s := t.first; s != t.next; s++ {
		bigger[s&uint64(len(bigger)-1)] = *t.at(s)
	}
	t.ring = bigger
}

// settle records one message's outcome and returns the entry if it was the last outstanding one.
func (t *tracker) settle(slot uint64, o outcome, reason string) *entry {
	e := t.at(slot)
	if o > e.outcome {
		e.outcome, e.reason = o, reason
	}
	e.open--
	if e.open > 0 || e.parked > 0 {
		return nil
	}
	t.open--
	return e
}

// park records that one message is parked.
func (t *tracker) park(slot uint64) {
	e := t.at(slot)
	e.open--
	e.parked++
}

// pop removes the oldest entry if it has no outstanding messages.
func (t *tracker) pop() (entry, bool) {
	if t.first == t.next {
		return entry{}, false
	}
	e := t.at(t.first)
	if e.open > 0 {
		return entry{}, false
	}
	out := *e
	*e = entry{}
	t.first++
	if out.parked > 0 {
		t.open--
	}
	return out, true
}

// oldest returns the first unsettled entry.
func (t *tracker) oldest() (entry, bool) {
	if t.first == t.next {
		return entry{}, false
	}
	return *t.at(t.first), true
}

package command

import (
	"slices"
	"sync"
	"sync/atomic"

	"cellgate/broker/shared/heap"
)

// entry is an open command in memory. Only the service's goroutine touches it.
type entry struct {
	rec *record // replaced as a whole when a change has been committed
	// outstanding means that the delivery engine has the command and will call Acked or Failed.
	outstanding bool
	// attempt numbers the deliveries of this process: callbacks of an older delivery are ignored.
	attempt int
	// handedHere means that this process set handed: a failure before Sent then proves that it was not sent.
	handedHere bool
	place      int32 // in the expiry heap
	// With several gateways: permit is the epoch of the connection that may send the command; asking means that a
	// request for that is under way, asked that its answer was lost; ending that a request to end it is under way;
	// doubt that a member with lost memory may have sent it.
	permit                       int64
	asking, asked, ending, doubt bool
}

// pending reports whether the command is to be sent.
func (e *entry) pending(now int64) bool {
	return !e.outstanding && !e.doubt && (e.rec.State == Queued || e.rec.State == Sent) && e.rec.until() > now
}

// sendQueue holds the open commands of one vehicle in sending order: urgent ones first, each kind in the order of
// acceptance.
type sendQueue struct {
	entries []*entry
	// failures counts the deliveries that the engine gave up, incremented in its callback; seen counts those that the
	// loop has handled. Nothing is sent while they differ: an abandoned command may have to go first.
	failures atomic.Int64
	seen     int64
	skipped  bool // pump skipped the queue because of that
}

func (l *sendQueue) insert(e *entry) {
	at := len(l.entries)
	for at > 0 && e.goesBefore(l.entries[at-1]) {
		at--
	}
	l.entries = slices.Insert(l.entries, at, e)
}

// goesBefore defines the sending order. The cell's numbers decide; without them the order of insertion does.
func (e *entry) goesBefore(o *entry) bool {
	if e.rec.Urgent != o.rec.Urgent {
		return e.rec.Urgent
	}
	return e.rec.Number < o.rec.Number
}

// outstanding counts the commands that the delivery engine has.
func (l *sendQueue) outstanding() int {
	n := 0
	for _, e := range l.entries {
		if e.outstanding {
			n++
		}
	}
	return n
}

func (l *sendQueue) remove(e *entry) {
	if i := slices.Index(l.entries, e); i >= 0 {
		l.entries = slices.Delete(l.entries, i, i+1)
	}
}

// room reports whether a new command would be sent at once: nothing waits before it, and the window has room for staged
// commands and one more.
func (l *sendQueue) room(window, staged int, urgent bool) bool {
	for _, e := range l.entries {
		waits := !e.outstanding && (e.rec.State == Queued || e.rec.State == Sent)
		if waits && (e.rec.Urgent || !urgent) {
			return false
		}
	}
	return l.outstanding()+staged < window
}

// Before implements heap.Item: the earliest expiry comes first.
func (e *entry) Before(other *entry) bool { return e.rec.until() < other.rec.until() }

// Place implements heap.Item.
func (e *entry) Place() *int32 { return &e.place }

// openSet indexes the open commands by sequence, vehicle and expiry.
type openSet struct {
	bySeq  map[uint64]*entry
	queues map[string]*sendQueue
	heap   heap.Heap[*entry]

	mu       sync.Mutex
	bySender map[string]int // number of open commands
}

// sender returns the key under which a command counts as one sender's. Kafka is one sender, because its records name
// their senders without proof.
func (r *record) sender() string {
	if r.Origin == OriginKafka {
		return OriginKafka
	}
	return r.By
}

func newOpenSet() *openSet {
	return &openSet{bySeq: map[uint64]*entry{}, queues: map[string]*sendQueue{}, bySender: map[string]int{}}
}

func (o *openSet) add(r *record, handedHere bool) {
	e := &entry{rec: r, handedHere: handedHere}
	o.bySeq[r.Seq] = e
	o.count(r.sender(), 1)
	o.heap.Put(e)
	l := o.queues[r.VIN]
	if l == nil {
		l = &sendQueue{}
		o.queues[r.VIN] = l
	}
	l.insert(e)
}

func (o *openSet) remove(e *entry) {
	delete(o.bySeq, e.rec.Seq)
	o.count(e.rec.sender(), -1)
	o.heap.Remove(e)
	l := o.queues[e.rec.VIN]
	l.remove(e)
	if len(l.entries) == 0 {
		delete(o.queues, e.rec.VIN)
	}
}

func (o *openSet) count(sender string, by int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bySender[sender] += by; o.bySender[sender] <= 0 {
		delete(o.bySender, sender)
	}
}

// ofSender returns the number of a sender's open commands. It may be called from any goroutine.
func (o *openSet) ofSender(sender string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bySender[sender]
}

// ofVehicle returns the number of a vehicle's open commands.
func (o *openSet) ofVehicle(vin string) int {
	if l := o.queues[vin]; l != nil {
		return len(l.entries)
	}
	return 0
}

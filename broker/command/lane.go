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
	// outstanding: the delivery engine has the command and owes Acked or Failed.
	outstanding bool
	// attempt numbers the deliveries of this process: what the engine says about an older one is not
	// about the present one.
	attempt int
	// handedHere: handed was set by this process, so a failure before Sent proves that it was not sent.
	handedHere bool
	place      int32 // in the expiry heap
	// Where several gateways serve the cell: permit is the epoch of the connection that may send it, asking says that the cell is
	// being asked for that, asked that it was and the answer is not known, ending that it is being asked to end it, and doubt that
	// somebody whose memory is gone may have sent it.
	permit                       int64
	asking, asked, ending, doubt bool
}

// lane holds the open commands of one vehicle in the order in which they are to be sent: urgent ones first, and each kind
// in the order of acceptance.
type lane struct {
	entries []*entry
	// failures counts the deliveries that the engine gave up, at the moment it says so; seen those that
	// the loop has heard of. While they differ nothing is sent: a command that was given up may have to go
	// first.
	failures atomic.Int64
	seen     int64
	skipped  bool // pump left the lane alone because of that
}

func (l *lane) insert(e *entry) {
	at := len(l.entries)
	for at > 0 && e.goesBefore(l.entries[at-1]) {
		at--
	}
	l.entries = slices.Insert(l.entries, at, e)
}

// goesBefore tells the order of sending. Numbers are those of the cell; without one it is that of insertion.
func (e *entry) goesBefore(o *entry) bool {
	if e.rec.Urgent != o.rec.Urgent {
		return e.rec.Urgent
	}
	return e.rec.Number < o.rec.Number
}

// outstanding is how many of the commands the delivery engine has.
func (l *lane) outstanding() int {
	n := 0
	for _, e := range l.entries {
		if e.outstanding {
			n++
		}
	}
	return n
}

func (l *lane) remove(e *entry) {
	if i := slices.Index(l.entries, e); i >= 0 {
		l.entries = slices.Delete(l.entries, i, i+1)
	}
}

// room reports whether a new command would be sent at once: nothing waits before it and the window has
// space for staged and one more.
func (l *lane) room(window, staged int, urgent bool) bool {
	for _, e := range l.entries {
		waits := !e.outstanding && (e.rec.State == Queued || e.rec.State == Sent)
		if waits && (e.rec.Urgent || !urgent) {
			return false
		}
	}
	return l.outstanding()+staged < window
}

// Before implements heap.Item: the command that expires first.
func (e *entry) Before(other *entry) bool { return e.rec.until() < other.rec.until() }

// Place implements heap.Item.
func (e *entry) Place() *int32 { return &e.place }

// openSet is every open command, by sequence, by vehicle and by expiry.
type openSet struct {
	bySeq map[uint64]*entry
	lanes map[string]*lane
	heap  heap.Heap[*entry]

	mu       sync.Mutex
	bySender map[string]int // how many each has, by sender
}

// sender is whose share of the open commands a command takes. Kafka is one sender: its records say by themselves who
// sent them.
func (r *record) sender() string {
	if r.Origin == OriginKafka {
		return OriginKafka
	}
	return r.By
}

func newOpenSet() *openSet {
	return &openSet{bySeq: map[uint64]*entry{}, lanes: map[string]*lane{}, bySender: map[string]int{}}
}

func (o *openSet) add(r *record, handedHere bool) {
	e := &entry{rec: r, handedHere: handedHere}
	o.bySeq[r.Seq] = e
	o.count(r.sender(), 1)
	o.heap.Put(e)
	l := o.lanes[r.VIN]
	if l == nil {
		l = &lane{}
		o.lanes[r.VIN] = l
	}
	l.insert(e)
}

func (o *openSet) remove(e *entry) {
	delete(o.bySeq, e.rec.Seq)
	o.count(e.rec.sender(), -1)
	o.heap.Remove(e)
	l := o.lanes[e.rec.VIN]
	l.remove(e)
	if len(l.entries) == 0 {
		delete(o.lanes, e.rec.VIN)
	}
}

func (o *openSet) count(sender string, by int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bySender[sender] += by; o.bySender[sender] <= 0 {
		delete(o.bySender, sender)
	}
}

// ofSender is the number of open commands of a sender, for any goroutine.
func (o *openSet) ofSender(sender string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bySender[sender]
}

// ofVehicle is the number of open commands of a vehicle.
func (o *openSet) ofVehicle(vin string) int {
	if l := o.lanes[vin]; l != nil {
		return len(l.entries)
	}
	return 0
}

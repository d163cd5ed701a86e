package syncer

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

const (
	// minFetch and maxFetch bound one fetch of a partition. A fetch has a sixteenth of the partition's share of the memory: it is
	// held in addition to the records in flight, and decoded records take three times their bytes.
	minFetch, maxFetch = 64 << 10, 1 << 20
	fetchWait          = 500 * time.Millisecond
	// recordCost is a record's memory in addition to its bytes.
	recordCost = 256
	// handoverGrace is how long a partition that is taken away waits for acknowledgements of records in flight, so that
	// its next reader need not send them again.
	handoverGrace = 3 * time.Second
)

// forwarder forwards one partition while it is assigned. When the partition goes to another gateway, records in flight
// stay in flight, and are not read and sent again if it comes back.
type forwarder struct {
	s *Syncer
	partition
	lane  *lane
	part  *kafkaclient.Assignment // the current one; owned by run
	skips chan *skip

	committing sync.Mutex // held during a commit

	mu          sync.Mutex
	assigned    bool
	room        chan struct{} // a record was settled
	first, last *delivery     // records in flight, in reading order
	count       int           // of them
	bytes       int
	waitingFor  map[string]int        // their bytes by topic
	read        int64                 // the offset after the last record read; before the first fetch where reading begins
	began       int64                 // where the first reading began; negative before
	next        int64                 // everything before it is settled; negative before the first fetch
	high        int64                 // after the partition's last record
	commit      int64                 // committed
	renew       time.Time             // when it is committed again without a change
	claim       kafkaclient.Claim     // committed with it
	inHand      time.Time             // time of the record that waits to be sent; zero if none
	gone        *kafkaclient.GapError // where it is stopped
}

// run forwards until ctx ends.
func (f *forwarder) run(ctx context.Context, p *kafkaclient.Assignment) {
	at, err := p.Committed(ctx)
	if err != nil {
		return
	}
	before := f.part
	f.part = p
	if !f.resume(ctx, before, at) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.commits(ctx)
	}()
	f.forward(ctx)
	<-done
}

// forward reads and sends until ctx ends.
func (f *forwarder) forward(ctx context.Context) {
	for ctx.Err() == nil {
		recs, high, err := f.part.Fetch(ctx, min(max(f.lane.shareOf()/16, minFetch), maxFetch), fetchWait)
		var gap *kafkaclient.GapError
		if errors.As(err, &gap) {
			f.stopAt(ctx, gap)
			continue
		}
		if err != nil {
			return
		}
		f.goOn()
		f.note(recs, high)
		for i := range recs {
			f.holds(recs[i].Time)
			if !f.wait(ctx) || f.lane.admit(ctx) != nil || f.send(ctx, &recs[i]) != nil {
				break
			}
		}
		f.holds(time.Time{})
	}
}

// holds sets the time of the record that waits to be sent.
func (f *forwarder) holds(at time.Time) {
	f.mu.Lock()
	f.inHand = at
	f.mu.Unlock()
}

func (f *forwarder) setAssigned(is bool) {
	f.mu.Lock()
	f.assigned = is
	f.mu.Unlock()
	if !is { // another gateway reports its gap
		f.goOn()
	}
}

func (f *forwarder) isAssigned() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.assigned
}

// resume decides where to continue: after the last record read, because earlier ones are settled or in flight. The
// group's offset counts only if another gateway has committed beyond what is settled here; then resume waits for the
// records in flight, to keep to one partition's bound. It returns false when ctx ends. before is this gateway's
// previous assignment of the partition, nil at first; at is the group's committed position.
func (f *forwarder) resume(ctx context.Context, before *kafkaclient.Assignment, at kafkaclient.Mark) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renew, f.claim = time.Time{}, f.part.Claim() // not committed yet
	if f.next < 0 {
		if f.commit = at.Next; at.Next < 0 {
			at.Next = 0 // nothing was ever read: removed records are missing
		}
		f.read, f.began = at.Next, at.Next
		f.part.Resume(at)
		return true
	}
	for at.Next > f.next && f.count > 0 {
		f.mu.Unlock()
		select {
		case <-f.room:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return false
		}
	}
	if at.Next > f.next {
		f.next, f.read, f.commit = at.Next, at.Next, at.Next
	} else {
		at = before.Mark() // the group loses the offsets of a deleted topic
	}
	at.Next = f.read
	f.part.Resume(at)
	return true
}

func size(r *kafkaclient.Fetched) int {
	n := 64 + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += 2 + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// note records a fetch's result: the partition's end, and at first where reading began.
func (f *forwarder) note(recs []kafkaclient.Fetched, high int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.high = high
	if f.next >= 0 {
		return
	}
	if f.next = f.part.Next(); len(recs) > 0 {
		f.next = recs[0].Offset
	}
	f.read = f.next
}

// wait waits for room; false if ctx has ended.
func (f *forwarder) wait(ctx context.Context) bool {
	for {
		f.mu.Lock()
		full := f.bytes >= f.lane.shareOf()
		f.mu.Unlock()
		if !full {
			return ctx.Err() == nil
		}
		select {
		case <-f.room:
		case <-ctx.Done():
			return false
		}
	}
}

// send gives a record to the central producer, or to the error topic if it must not go to the centre. The error is
// ctx's.
func (f *forwarder) send(ctx context.Context, r *kafkaclient.Fetched) error {
	d := &delivery{f: f, offset: r.Offset, received: receivedAt(r)}
	via, looped := f.via(r)
	d.record = kafkaclient.Record{
		Topic: string(r.Header(kafkaclient.HeaderCentralTopic)), Key: r.Key, Value: r.Value,
		Time: r.Time.UnixMilli(), Done: d, Near: f.id + 1,
	}
	d.record.Headers, d.record.HeaderCount = f.headers(r, via)
	known := false
	if f.s.o.ExactlyOnce && d.record.Topic != "" {
		var err error
		if known, err = f.wasForwarded(ctx, d.record.Topic, r.Offset); err != nil {
			return err
		}
	}
	overShare := f.begin(d)
	switch {
	case known:
		f.settle(d, "recognised")
	case d.record.Topic == "":
		d.sendDeadLetter("no header " + kafkaclient.HeaderCentralTopic)
	case looped:
		d.sendDeadLetter("it has passed through this cell before: " + via)
	case overShare:
		d.sendDeadLetter("the centre does not have its topic, and too many records wait for it")
	default:
		f.lane.central.Produce(&d.record)
	}
	return nil
}

// via returns the cells that the record has passed, this one included, and whether this one was among them before.
func (f *forwarder) via(r *kafkaclient.Fetched) (via string, looped bool) {
	before := string(r.Header(headerVia))
	if before == "" {
		return f.s.o.CellID, false
	}
	return before + "," + f.s.o.CellID, slices.Contains(strings.Split(before, ","), f.s.o.CellID)
}

// headers appends the record's headers and those of its source. via replaces the previous one.
func (f *forwarder) headers(r *kafkaclient.Fetched, via string) (b []byte, n int) {
	b = make([]byte, 0, size(r)-len(r.Key)-len(r.Value)+96)
	add := func(name, value string) {
		b = kafkaclient.AppendHeader(b, name, value)
		n++
	}
	for i := range r.Headers {
		if h := &r.Headers[i]; h.Key != headerVia {
			b = kafkaclient.AppendHeader(b, h.Key, h.Value)
			n++
		}
	}
	add(headerVia, via)
	add(headerSrcCell, f.s.o.CellID)
	add(headerSrcTopic, f.topic)
	add(headerSrcPartition, strconv.Itoa(f.id))
	add(headerSrcOffset, strconv.FormatInt(r.Offset, 10))
	return b, n
}

// receivedAt returns when a gateway received a record's message: by its header, else by its timestamp, which a topic may replace
// by the time of append.
func receivedAt(r *kafkaclient.Fetched) time.Time {
	if at, err := time.Parse(time.RFC3339, string(r.Header("received-at"))); err == nil {
		return at
	}
	return r.Time
}

// The headers of a record's source.
const (
	headerSrcCell      = "src-cell"
	headerSrcTopic     = "src-topic"
	headerSrcPartition = "src-partition"
	headerSrcOffset    = "src-offset"
	headerVia          = "via" // the cells that it has passed, separated by commas
)

// begin records that a record is in flight. It reports whether half of the partition's share already waits for topics
// that the centre does not have: more of their records would hold up others.
func (f *forwarder) begin(d *delivery) (overShare bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	topic := d.record.Topic
	if f.lane.central.Unknown(topic) {
		n := 0
		for name, bytes := range f.waitingFor {
			if f.lane.central.Unknown(name) {
				n += bytes
			}
		}
		overShare = n >= f.lane.shareOf()/2
	}
	if d.before = f.last; f.last == nil {
		f.next = d.offset // records removed in between by compaction or retention are settled
		f.first = d
	} else {
		f.last.behind = d
	}
	f.last, f.read = d, d.offset+1
	f.count++
	d.bound, d.taken = topic, d.cost()
	f.bytes += d.taken
	f.waitingFor[topic] += d.taken
	return overShare
}

// delivery is a record in flight.
type delivery struct {
	f              *forwarder
	before, behind *delivery // in the forwarder's list
	offset         int64
	received       time.Time
	record         kafkaclient.Record
	bound          string // the central topic
	taken          int    // bytes of the memory
	deadLetter     bool
}

// cost returns its bytes of the memory until it is settled.
func (d *delivery) cost() int {
	return len(d.record.Key) + len(d.record.Value) + cap(d.record.Headers) + recordCost
}

// Produced implements kafkaclient.Completion.
func (d *delivery) Produced(_ *kafkaclient.Record, err error) {
	switch {
	case err == nil && d.deadLetter:
		d.f.settle(d, "dead_lettered")
	case err == nil:
		m, lane := d.f.s.o.Metrics, d.f.lane.name
		m.delivery.WithLabelValues(m.labels(d.f.s.o.Centre, lane)...).Observe(max(0, time.Since(d.received).Seconds())) // clocks may differ
		d.f.settle(d, "forwarded")
	case refused(err) && !d.deadLetter:
		d.sendDeadLetter(err.Error())
	case refused(err):
		// The error topic refuses it too. It is held: nothing is dropped.
		d.f.s.o.Log.Error("error topic does not accept a record; its partition waits",
			"topic", d.f.topic, "partition", d.f.id, "offset", d.offset, "err", err)
		d.f.s.later(d)
	}
	// Otherwise the producer was closed: the offset is not committed.
}

// sendDeadLetter sends the record to the error topic of the cell's Kafka.
func (d *delivery) sendDeadLetter(reason string) {
	d.deadLetter = true
	d.record.Topic = ErrorTopic
	d.record.Headers = kafkaclient.AppendHeader(d.record.Headers, "error", reason)
	d.record.HeaderCount++
	d.f.s.cell.Produce(&d.record)
}

// settle records a final outcome.
func (f *forwarder) settle(d *delivery, outcome string) {
	f.s.o.Metrics.records.WithLabelValues(f.s.o.Metrics.labels(f.s.o.Centre, f.lane.name, outcome)...).Inc()
	f.lane.passed.add(d.taken - recordCost)
	f.mu.Lock()
	if d.before == nil {
		f.first = d.behind
	} else {
		d.before.behind = d.behind
	}
	if d.behind == nil {
		f.last = d.before
	} else {
		d.behind.before = d.before
	}
	if f.first == nil {
		f.next = f.read
	} else {
		f.next = f.first.offset
	}
	f.count--
	f.bytes -= d.taken
	if f.waitingFor[d.bound] -= d.taken; f.waitingFor[d.bound] <= 0 {
		delete(f.waitingFor, d.bound)
	}
	f.mu.Unlock()
	select {
	case f.room <- struct{}{}:
	default:
	}
}

// commits commits what is settled, every second and at the end, unless another gateway has claimed the partition.
func (f *forwarder) commits(ctx context.Context) {
	tick := time.NewTicker(f.s.o.CommitInterval)
	defer tick.Stop()
	f.commitNow() // the claim
	for {
		select {
		case <-tick.C:
			f.commitNow()
		case <-ctx.Done():
			f.drain()
			f.commitNow()
			return
		}
	}
}

// drain waits for records in flight: for handoverGrace, at a Stop for as long as it allows.
func (f *forwarder) drain() {
	if f.lane.isPaused() {
		return // nothing will be settled
	}
	end := time.NewTimer(handoverGrace)
	defer end.Stop()
	for {
		f.mu.Lock()
		left := f.count
		f.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-f.room:
		case <-end.C:
			if !f.s.stopping() {
				return
			}
		case <-f.s.hurry:
			return
		}
	}
}

// renewCommit is how often an unchanged offset is committed: otherwise a group without members expires.
const renewCommit = time.Hour

func (f *forwarder) commitNow() {
	f.committing.Lock()
	defer f.committing.Unlock()
	f.mu.Lock()
	next, due := f.next, f.next != f.commit || time.Now().After(f.renew)
	if next < 0 {
		next = f.read
	}
	f.mu.Unlock()
	if !due || f.s.isSuperseded() {
		return
	}
	if err := f.part.Commit(next); err != nil {
		f.s.o.Log.Warn("offset not committed, trying again", "err", err)
		return
	}
	f.mu.Lock()
	f.commit, f.renew = next, time.Now().Add(renewCommit)
	f.mu.Unlock()
}

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
	// minFetch and maxFetch bound what a partition reads at a time: a quarter of its share of the memory.
	minFetch, maxFetch = 64 << 10, 1 << 20
	fetchWait          = 500 * time.Millisecond
	// recordCost is what a record under way takes beside its bytes.
	recordCost = 256
	// settleGrace is how long a partition that is taken away waits for acknowledgements that are still
	// under way, so that its next reader need not send them again.
	settleGrace = 3 * time.Second
)

// forwarder forwards one partition while it is assigned. What it has sent stays under way when the partition goes to
// another gateway, and is not read and sent again when it comes back.
type forwarder struct {
	s *Syncer
	partition
	lane  *lane
	part  *kafkaclient.Assignment // the present one; belongs to run
	skips chan *skip

	committing sync.Mutex // held while the group is told of a new position

	mu          sync.Mutex
	assigned    bool
	room        chan struct{} // a record was settled
	first, last *delivery     // those under way, in the order in which they were read
	count       int           // of them
	bytes       int
	waitingFor  map[string]int        // the bytes among them by topic
	read        int64                 // the offset after the last record that was read; where reading begins before the first fetch
	began       int64                 // where the first reading began; negative before
	next        int64                 // everything before it is settled; negative before the first fetch
	high        int64                 // behind the partition's last record
	commit      int64                 // committed
	renew       time.Time             // when it is committed again though nothing has changed
	claim       kafkaclient.Claim     // committed with it
	inHand      time.Time             // of the record that waits to be sent; zero when none does
	gone        *kafkaclient.GapError // where it stands
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
		recs, high, err := f.part.Fetch(ctx, min(max(f.lane.shareOf()/4, minFetch), maxFetch), fetchWait)
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

// holds notes the time of the record that waits to be sent.
func (f *forwarder) holds(at time.Time) {
	f.mu.Lock()
	f.inHand = at
	f.mu.Unlock()
}

func (f *forwarder) setAssigned(is bool) {
	f.mu.Lock()
	f.assigned = is
	f.mu.Unlock()
	if !is { // its gap is another gateway's to tell
		f.goOn()
	}
}

func (f *forwarder) isAssigned() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.assigned
}

// resume decides where to go on: after the last record read, as what came before is settled or under way. Only
// when another gateway has committed beyond what is settled here, the group's offset counts; then what is under way is
// waited for, so that no more than one partition's bound is. It returns false when ctx ends. before is the partition as
// it was here before, nil at first; at is what the group has committed.
func (f *forwarder) resume(ctx context.Context, before *kafkaclient.Assignment, at kafkaclient.Mark) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renew, f.claim = time.Time{}, f.part.Claim() // which is not committed yet
	if f.next < 0 {
		if f.commit = at.Next; at.Next < 0 {
			at.Next = 0 // nobody has read anything: what is gone by now is missing
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
		at = before.Mark() // the group forgets what it knew of a topic that is deleted
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

// note takes what a fetch said: where the partition ends, and the first time where it is read from.
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

// wait waits for room; false when ctx has ended.
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

// send gives a record to the central producer, or, when it may not go there, to the error topic. The error is ctx's.
func (f *forwarder) send(ctx context.Context, r *kafkaclient.Fetched) error {
	d := &delivery{f: f, offset: r.Offset}
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
	crowded := f.begin(d)
	switch {
	case known:
		f.settle(d, "recognised")
	case d.record.Topic == "":
		d.bury("no header " + kafkaclient.HeaderCentralTopic)
	case looped:
		d.bury("it has been through this cell before: " + via)
	case crowded:
		d.bury("the centre does not give its topic, and too much waits for it already")
	default:
		f.lane.central.Produce(&d.record)
	}
	return nil
}

// via is through which cells the record has come, with this one, and whether that has been among them before.
func (f *forwarder) via(r *kafkaclient.Fetched) (via string, looped bool) {
	before := string(r.Header(headerVia))
	if before == "" {
		return f.s.o.CellID, false
	}
	return before + "," + f.s.o.CellID, slices.Contains(strings.Split(before, ","), f.s.o.CellID)
}

// headers are the record's, with those that tell where it comes from. via replaces the one that it had.
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

// The headers that tell where a record comes from.
const (
	headerSrcCell      = "src-cell"
	headerSrcTopic     = "src-topic"
	headerSrcPartition = "src-partition"
	headerSrcOffset    = "src-offset"
	headerVia          = "via" // the cells that it has come through, with commas
)

// begin notes that a record is under way. It reports whether half of the partition's share waits already for topics that
// the centre does not have: whatever else is bound for them would hold up the others.
func (f *forwarder) begin(d *delivery) (crowded bool) {
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
		crowded = n >= f.lane.shareOf()/2
	}
	if d.before = f.last; f.last == nil {
		f.next = d.offset // what compaction or retention took out in between is settled
		f.first = d
	} else {
		f.last.behind = d
	}
	f.last, f.read = d, d.offset+1
	f.count++
	d.bound, d.taken = topic, d.cost()
	f.bytes += d.taken
	f.waitingFor[topic] += d.taken
	return crowded
}

// delivery is one record on its way.
type delivery struct {
	f              *forwarder
	before, behind *delivery // in the forwarder's list
	offset         int64
	record         kafkaclient.Record
	bound          string // the topic at the centre
	taken          int    // of the memory
	buried         bool
}

// cost is what it takes of the memory until it is settled.
func (d *delivery) cost() int {
	return len(d.record.Key) + len(d.record.Value) + cap(d.record.Headers) + recordCost
}

// Produced implements kafkaclient.Completion.
func (d *delivery) Produced(_ *kafkaclient.Record, err error) {
	switch {
	case err == nil && d.buried:
		d.f.settle(d, "dead_lettered")
	case err == nil:
		d.f.settle(d, "forwarded")
	case refused(err) && !d.buried:
		d.bury(err.Error())
	case refused(err):
		// Even the error topic does not take it. It is held: nothing is given up.
		d.f.s.o.Log.Error("error topic does not take a record; its partition waits",
			"topic", d.f.topic, "partition", d.f.id, "offset", d.offset, "err", err)
		d.f.s.later(d)
	}
	// Otherwise the producer was closed: the offset is not committed.
}

// bury sends the record to the error topic of the cell's Kafka.
func (d *delivery) bury(reason string) {
	d.buried = true
	d.record.Topic = ErrorTopic
	d.record.Headers = kafkaclient.AppendHeader(d.record.Headers, "error", reason)
	d.record.HeaderCount++
	d.f.s.cell.Produce(&d.record)
}

// settle notes that a record needs nothing more.
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

// commits commits what is settled, every second and at the end, but for a partition that another gateway has claimed.
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

// drain gives what is under way a short time, and before the end of all all the time there is.
func (f *forwarder) drain() {
	if f.lane.isPaused() {
		return // nothing will be settled
	}
	end := time.NewTimer(settleGrace)
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

// renewCommit is how often an offset is committed that has not changed: a group without members forgets it else.
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

package trace

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// Filter selects messages. Zero fields select all.
type Filter struct {
	VIN string
	// Topic is a topic filter.
	Topic string
	// Rule is the id of a rule; From returns its current topic filters. Steps of other rules are left out.
	Rule string
	From func() []string
	// Sampled selects only sampled messages.
	Sampled *Sampling
}

func (f *Filter) wants(rec *message.Record) bool {
	if f.Sampled != nil {
		_, sampled := f.Sampled.Message(rec)
		return sampled
	}
	topic := rec.Topic
	if f.VIN != "" && rec.VIN() != f.VIN || f.Topic != "" && !message.Match(f.Topic, topic) {
		return false
	}
	return f.Rule == "" || slices.ContainsFunc(f.From(), func(from string) bool { return message.Match(from, topic) })
}

// Bounds limit a tracer.
type Bounds struct {
	// PerSecond is the rate of steps, with a burst of the same number.
	PerSecond int
	// Steps and Bytes bound the buffer.
	Steps int
	Bytes int
	// Messages is the number of messages followed at once; a new one replaces the oldest.
	Messages int
}

// openMessage is a followed message.
type openMessage struct {
	journaled bool
	evaluated bool
	acked     bool // or there is no acknowledgement
	rules     []string
	left      int // targets' messages that are not final
}

// waiting is an entry of the buffer: steps, or an evaluation whose steps are made when it is read.
type waiting struct {
	step Step
	eval *Evaluation
	size int
}

// Tracer buffers the steps of messages for one user.
type Tracer struct {
	of     *Traces
	owner  string
	filter Filter
	bounds Bounds
	// follows counts the messages in open by the low bits of their sequence, so that others are skipped without the
	// lock.
	follows [1024]atomic.Int32

	mu      sync.Mutex
	open    map[uint64]*openMessage
	order   []uint64 // sequences in open, oldest first; some are no longer in it
	fresh   []uint64 // sequences in open that were not durable yet
	buffer  []waiting
	bytes   int
	wake    chan struct{}
	tokens  float64
	filled  time.Time
	dropped uint64
	seen    uint64 // sequence of the rules' last evaluation
}

func newTracer(of *Traces, f Filter, b Bounds) *Tracer {
	return &Tracer{
		of: of, filter: f, bounds: b, open: map[uint64]*openMessage{}, wake: make(chan struct{}, 1),
		tokens: float64(b.PerSecond), filled: time.Now(),
	}
}

// End stops the tracer.
func (n *Tracer) End() { n.of.end(n) }

// Next waits for steps. It returns at least one, or nil when ctx has ended.
func (n *Tracer) Next(ctx context.Context) []Step {
	for {
		items, dropped := n.take()
		var out []Step
		for i := range items {
			if e := items[i].eval; e != nil {
				out = append(out, n.explain(e)...)
			} else {
				out = append(out, items[i].step)
			}
		}
		if dropped > 0 {
			out = append(out, Step{Step: Dropped, At: now(), Count: dropped})
		}
		if len(out) > 0 {
			return out
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		}
	}
}

func (n *Tracer) take() ([]waiting, uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	items, dropped := n.buffer, n.dropped
	n.buffer, n.bytes, n.dropped = nil, 0, 0
	return items, dropped
}

// explain makes the rules' steps. Each counts against the rate like any other step.
func (n *Tracer) explain(e *Evaluation) []Step {
	var out []Step
	for _, s := range e.Explain() {
		if n.filter.Rule != "" && s.Rule != n.filter.Rule {
			continue
		}
		n.mu.Lock()
		ok := n.payLocked()
		n.mu.Unlock()
		if !ok {
			continue
		}
		s.Step, s.At, s.Seq, s.VIN, s.Topic = Rule, e.At, e.Record.Seq, e.Record.VIN(), e.Record.Topic
		out = append(out, s)
	}
	return out
}

// payLocked takes one step from the rate; if it returns false, the step was counted as dropped.
func (n *Tracer) payLocked() bool {
	rate, at := float64(n.bounds.PerSecond), time.Now()
	n.tokens = min(rate, n.tokens+at.Sub(n.filled).Seconds()*rate)
	n.filled = at
	if n.tokens < 1 {
		n.dropLocked()
		return false
	}
	n.tokens--
	return true
}

func (n *Tracer) dropLocked() {
	n.dropped++
	n.of.dropped.Add(1)
}

// overhead estimates a step's bytes without its texts.
const overhead = 256

// addLocked adds a step to the buffer, or counts it as dropped.
func (n *Tracer) addLocked(w waiting) bool {
	w.size += overhead + len(w.step.Topic) + len(w.step.Client) + len(w.step.Reason)
	if b := &n.bounds; len(n.buffer) >= b.Steps || n.bytes+w.size > b.Bytes {
		n.dropLocked()
		n.signal()
		return false
	}
	if !n.payLocked() {
		n.signal()
		return false
	}
	n.buffer = append(n.buffer, w)
	n.bytes += w.size
	n.signal()
	return true
}

func (n *Tracer) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// beginLocked starts to follow a message.
func (n *Tracer) beginLocked(seq uint64, acked bool) *openMessage {
	for len(n.order) > 0 && (n.open[n.order[0]] == nil || len(n.open) >= n.bounds.Messages) {
		n.forgetLocked(n.order[0])
		n.order = n.order[1:]
	}
	m := &openMessage{acked: acked}
	n.open[seq] = m
	n.follows[seq%uint64(len(n.follows))].Add(1)
	n.order = append(n.order, seq)
	return m
}

func (n *Tracer) forgetLocked(seq uint64) {
	if n.open[seq] != nil {
		delete(n.open, seq)
		n.follows[seq%uint64(len(n.follows))].Add(-1)
	}
}

// mayFollow returns false if the message is not followed. It takes no lock, because every message calls it while there
// is a tracer.
func (n *Tracer) mayFollow(seq uint64) bool { return n.follows[seq%uint64(len(n.follows))].Load() > 0 }

// endLocked forgets a message without further steps.
func (n *Tracer) endLocked(seq uint64, m *openMessage) {
	if m.journaled && m.evaluated && m.acked && m.left <= 0 {
		n.forgetLocked(seq)
	}
	if len(n.order) > 2*n.bounds.Messages {
		n.order = slices.DeleteFunc(n.order, func(seq uint64) bool { return n.open[seq] == nil })
	}
}

func (n *Tracer) wants(rec *message.Record) bool { return n.filter.wants(rec) }

// received may come after evaluated: the journal gives a record to the rules before its connection continues.
func (n *Tracer) received(rec *message.Record, at time.Time) {
	if !n.wants(rec) {
		return
	}
	s := stepOf(Received, rec)
	s.At = at
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addLocked(waiting{step: s}) && n.open[rec.Seq] == nil && rec.Seq > n.seen {
		n.beginLocked(rec.Seq, rec.QoS == 0)
		n.fresh = append(n.fresh, rec.Seq)
	}
}

// stepOf describes a record as its connection received it. It copies the record's texts.
func stepOf(name string, rec *message.Record) Step {
	qos, size := rec.QoS, len(rec.Payload)
	topic := strings.Clone(rec.Topic)
	vin, _, _ := message.SplitTopic(topic)
	return Step{
		Step: name, At: now(), Seq: rec.Seq, VIN: vin, Topic: topic, Client: strings.Clone(rec.Client), QoS: &qos, Bytes: &size, Repeats: rec.Original,
		Parent: strings.Clone(Parent(rec.Props.User)),
	}
}

func (n *Tracer) refused(rec *message.Record, code byte, reason string) {
	if !n.wants(rec) {
		return
	}
	s := stepOf(Refused, rec)
	s.Code, s.Reason = &code, reason
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addLocked(waiting{step: s})
}

// durable reports the messages up to the mark, in order.
func (n *Tracer) durable(mark uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.fresh)
	there, _ := slices.BinarySearch(n.fresh, mark+1)
	for _, seq := range n.fresh[:there] {
		if m := n.open[seq]; m != nil {
			n.journaledLocked(seq, m)
		}
	}
	n.fresh = slices.Delete(n.fresh, 0, there)
}

func (n *Tracer) journaledLocked(seq uint64, m *openMessage) {
	if m.journaled {
		return
	}
	m.journaled = true
	n.addLocked(waiting{step: Step{Step: Journaled, At: now(), Seq: seq}})
	n.endLocked(seq, m)
}

func (n *Tracer) acknowledged(seq uint64, code byte, durable uint64) {
	if !n.mayFollow(seq) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.open[seq]
	if m == nil || m.acked {
		return
	}
	if seq <= durable {
		n.journaledLocked(seq, m)
	}
	m.acked = true
	n.addLocked(waiting{step: Step{Step: Acknowledged, At: now(), Seq: seq, Code: &code}})
	n.endLocked(seq, m)
}

func (n *Tracer) evaluated(e *Evaluation) {
	seq := e.Record.Seq
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.open[seq]
	if m == nil { // not just received: a will, or a message that waited for the rules
		if !n.addLocked(waiting{step: stepOf(Journaled, e.Record)}) {
			return
		}
		m = n.beginLocked(seq, e.Record.QoS == 0)
		m.journaled = true
	}
	n.journaledLocked(seq, m)
	n.seen, m.evaluated, m.rules, m.left = seq, true, e.Rules, e.Messages
	n.addLocked(waiting{eval: e, size: len(e.Record.Payload)})
	n.endLocked(seq, m)
}

func (n *Tracer) settled(seq uint64, rule, target uint16, s Step) {
	if !n.mayFollow(seq) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.open[seq]
	if m == nil || !m.evaluated {
		return
	}
	if int(rule) < len(m.rules) {
		s.Rule = m.rules[rule]
	}
	switch s.Outcome {
	case Delivered, DeadLettered, GivenUp:
		m.left--
	}
	if n.filter.Rule == "" || s.Rule == n.filter.Rule {
		if target < firstSpecialTarget {
			at := int(target)
			s.Target = &at
		}
		s.Step, s.At, s.Seq = Target, now(), seq
		n.addLocked(waiting{step: s})
	}
	n.endLocked(seq, m)
}

// firstSpecialTarget is the lowest index that is not a target of the rule's `to`: these stand for errors.
const firstSpecialTarget = 0xFFFE

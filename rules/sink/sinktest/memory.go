package sinktest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"cellgate/broker/shared/remote"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// Message is a message given to a sink.
type Message struct {
	Seq   uint64
	ID    string
	VIN   string
	Topic string // of Kafka, or the key in Redis
	Value string
	Rule  string
	Item  string // of a rule with each
	// Rules are those of an undecodable message's dead letter.
	Rules string
	// Dead means that it is a dead letter, for Reason.
	Dead   bool
	Reason string
}

// Memory is a sink that keeps its messages. While held it settles nothing. Messages for shut topics are parked.
type Memory struct {
	kind op.SinkKind

	mu      sync.Mutex
	held    bool
	refuse  func(m Message) bool
	waiting []given
	taken   []Message
	settled []Message
	peak    int
	shut    map[string]bool // topics that take nothing
	gates   map[string]bool // topics whose messages go to Ticket.Park
}

// given is a waiting message.
type given struct {
	m Message
	t sink.Ticket
}

// NewMemory returns a sink of a kind.
func NewMemory(kind op.SinkKind) *Memory {
	return &Memory{kind: kind, shut: map[string]bool{}, gates: map[string]bool{}}
}

// Name implements sink.Sink.
func (s *Memory) Name() string { return string(s.kind) }

// Kind implements sink.Sink.
func (s *Memory) Kind() op.SinkKind { return s.kind }

// Health implements sink.Sink.
func (s *Memory) Health() remote.Health { return remote.Health{Name: s.Name(), OK: true} }

// Close implements sink.Sink.
func (s *Memory) Close(context.Context) error { return nil }

// Deliver implements sink.Sink.
func (s *Memory) Deliver(d *sink.Message, t sink.Ticket) {
	m := describe(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil && s.refuse(m) {
		go t.Refused(errPoison)
		return
	}
	s.gates[m.Topic] = s.gates[m.Topic] || s.shut[m.Topic]
	if s.gates[m.Topic] && t.Park(m.Topic, errShut) {
		return
	}
	s.taken = append(s.taken, m)
	s.waiting = append(s.waiting, given{m, t})
	s.peak = max(s.peak, len(s.waiting))
	if !s.held {
		s.flushLocked()
	}
}

var (
	errShut   = errors.New("shut")
	errPoison = errors.New("poison")
)

// Shut makes a topic take nothing, or take messages again. It returns the topic's unsettled messages to their tickets.
func (s *Memory) Shut(topic string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut[topic] = on; !on {
		if !s.held {
			s.flushLocked()
		}
		return
	}
	s.gates[topic] = true
	s.waiting = slices.DeleteFunc(s.waiting, func(g given) bool {
		if g.m.Topic != topic || !g.t.Park(topic, errShut) {
			return false
		}
		for i := len(s.taken) - 1; i >= 0; i-- {
			if s.taken[i] == g.m {
				s.taken = slices.Delete(s.taken, i, i+1)
				break
			}
		}
		return true
	})
}

// Announce implements sink.Sink.
func (s *Memory) Announce([]string) {}

// Parker implements sink.Sink.
func (s *Memory) Parker() sink.Parker { return s }

// Park implements sink.Parker.
func (s *Memory) Park(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[topic] = true
}

// Open implements sink.Parker.
func (s *Memory) Open(topic string, empty func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut[topic] && empty() {
		delete(s.gates, topic)
	}
}

func describe(d *sink.Message) Message {
	m := Message{
		Seq: d.Record.Seq, ID: string(d.AppendMsgID(nil)), VIN: d.Record.VIN(), Topic: d.Out.Topic,
		Value: string(d.Out.Value), Dead: d.Out.DeadLetter, Reason: d.Out.Reason,
	}
	if d.Out.Sink == op.SinkRedis {
		m.Topic, m.Value = d.Out.Redis.Key, string(d.Out.Redis.Value)
	}
	for _, h := range d.Out.Headers {
		if h.Name == "rules" {
			m.Rules = h.Value
		}
		if h.Name == "item" {
			m.Item = h.Value
		}
		if h.Name == "rule" {
			m.Rule = h.Value
		}
	}
	return m
}

func (s *Memory) flushLocked() {
	s.waiting = slices.DeleteFunc(s.waiting, func(g given) bool {
		switch {
		case s.shut[g.m.Topic]:
			return false
		case s.refuse != nil && s.refuse(g.m):
			go g.t.Refused(errPoison)
		default:
			s.settleLocked(g)
		}
		return true
	})
}

// settleLocked settles a message.
func (s *Memory) settleLocked(g given) {
	s.settled = append(s.settled, g.m)
	g.t.Delivered()
}

// Hold stops or resumes settling.
func (s *Memory) Hold(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = on
	if !on {
		s.flushLocked()
	}
}

// Settle settles up to n of the waiting messages, beginning at the from-th, modulo their number.
func (s *Memory) Settle(from, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && len(s.waiting) > 0; n-- {
		i := from % len(s.waiting)
		if s.shut[s.waiting[i].m.Topic] {
			continue
		}
		s.settleLocked(s.waiting[i])
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
}

// LetGo drops abandoned messages among the waiting ones, as a sink does between tries.
func (s *Memory) LetGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(g given) bool {
		if g.t.Abandoned() {
			g.t.Dropped(sink.Retention)
			return true
		}
		return false
	})
}

// Refuse makes the sink refuse the messages that f selects.
func (s *Memory) Refuse(f func(m Message) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// Taken returns the messages that the sink did not refuse, in the order of Deliver.
func (s *Memory) Taken() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

// Settled returns the messages settled as delivered, in that order.
func (s *Memory) Settled() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.settled)
}

// Peak returns the highest number of waiting messages.
func (s *Memory) Peak() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// Forget drops the waiting messages unsettled, as the end of the process does.
func (s *Memory) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = nil
}

package spans

import (
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otel "go.opentelemetry.io/otel/trace"

	broker "cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
)

// message is a message whose steps are followed. Steps may come in almost any order.
type message struct {
	at     trace.Context // of the span publish
	parent [8]byte
	first  trace.Step // Received, or Journaled for a message without a connection

	received, journaled, evaluated, acknowledged time.Time
	code                                         byte
	published, stored                            bool            // whether their spans exist
	sent                                         map[string]bool // targets whose spans exist
}

// assembler makes spans of steps.
type assembler struct {
	e     *Exporter
	open  map[uint64]*message
	order []uint64 // of open, oldest first
}

// step handles one step.
func (a *assembler) step(s *trace.Step) {
	m := a.open[s.Seq]
	if m == nil {
		if s.Topic == "" || s.Step == trace.Rule { // of a message that is no longer followed
			return
		}
		if m = a.begin(s); m == nil {
			return
		}
	}
	switch s.Step {
	case trace.Received:
		m.first, m.received = *s, s.At
	case trace.Journaled:
		m.journaled = s.At
	case trace.Acknowledged:
		m.acknowledged = s.At
		if s.Code != nil {
			m.code = *s.Code
		}
	case trace.Rule:
		a.rule(m, s)
	case trace.Target:
		a.target(m, s)
	}
	a.ended(m)
}

// begin follows a message, in place of the oldest if there are too many.
func (a *assembler) begin(s *trace.Step) *message {
	if s.Seq == 0 {
		return nil // refused: not in the journal
	}
	rec := broker.Record{Kind: broker.KindPublish, Seq: s.Seq, Original: s.Repeats, Topic: s.Topic}
	if s.Parent != "" {
		rec.Props.User = []broker.UserProperty{{Name: trace.ParentProperty, Value: s.Parent}}
	}
	c, sampled := a.e.o.Sampling.Message(&rec)
	if !sampled {
		return nil
	}
	if len(a.order) >= a.e.o.Messages {
		delete(a.open, a.order[0])
		a.order = a.order[1:]
	}
	m := &message{at: c.MessageSpan(s.Seq, "publish"), parent: c.Span, first: *s, sent: map[string]bool{}}
	a.open[s.Seq] = m
	a.order = append(a.order, s.Seq)
	return m
}

// ended makes the spans that are now complete.
func (a *assembler) ended(m *message) {
	if !m.stored && !m.received.IsZero() && !m.journaled.IsZero() {
		m.stored = true
		a.e.emit(&span{
			at: m.at.MessageSpan(m.first.Seq, "journal"), parent: m.at.Span, name: "journal", kind: otel.SpanKindInternal,
			begin: m.received, end: m.journaled, attributes: []attribute.KeyValue{attribute.Int64("cellgate.seq", int64(m.first.Seq))}, //nolint:gosec // below 2^63
		})
	}
	end := m.acknowledged
	if m.first.QoS != nil && *m.first.QoS == 0 {
		end = m.journaled
	}
	if m.published || m.received.IsZero() || end.IsZero() {
		return
	}
	m.published = true
	s := &span{at: m.at, parent: m.parent, name: "publish " + class(m.first.Topic), kind: otel.SpanKindServer, begin: m.received, end: end, attributes: a.about(m)}
	if m.code >= 0x80 {
		s.failed = fmt.Sprintf("reason code 0x%02x", m.code)
	}
	a.e.emit(s)
}

// class returns the part of a topic shared by many messages, for the span's name.
func class(topic string) string {
	_, branch, rest := broker.SplitTopic(topic)
	if branch != "up" {
		return branch
	}
	return rest
}

func (a *assembler) about(m *message) []attribute.KeyValue {
	id := m.first.Seq
	if m.first.Repeats != 0 {
		id = m.first.Repeats
	}
	all := []attribute.KeyValue{
		attribute.String("messaging.system", "mqtt"), attribute.String("messaging.destination.name", m.first.Topic),
		attribute.String("messaging.message.id", broker.ID(a.e.o.Node, a.e.o.Epoch, id)), attribute.String("messaging.client.id", m.first.Client),
		attribute.String("cellgate.vin", m.first.VIN),
	}
	if m.first.QoS != nil {
		all = append(all, attribute.Int("cellgate.qos", int(*m.first.QoS)))
	}
	if m.first.Bytes != nil {
		all = append(all, attribute.Int("messaging.message.body.size", *m.first.Bytes))
	}
	return all
}

// rule makes the span of a rule's evaluation of the message.
func (a *assembler) rule(m *message, r *trace.Step) {
	m.evaluated = r.At
	begin := m.journaled
	if begin.IsZero() || begin.After(r.At) {
		begin = r.At
	}
	s := &span{
		at: m.at.MessageSpan(r.Seq, trace.Rule, r.Rule), parent: m.at.Span, name: "rule " + r.Rule, kind: otel.SpanKindInternal, begin: begin, end: r.At,
		attributes: []attribute.KeyValue{attribute.String("cellgate.rule", r.Rule), attribute.String("cellgate.outcome", r.Outcome)},
	}
	if r.Reason != "" {
		s.attributes = append(s.attributes, attribute.String("cellgate.stage", r.Stage), attribute.String("cellgate.reason", r.Reason))
	}
	if r.Outcome == trace.Failed {
		s.failed = r.Reason
	}
	a.e.emit(s)
}

// target makes the span of what a rule sends, once it has ended. Several messages of one rule to one target share a
// span.
func (a *assembler) target(m *message, t *trace.Step) {
	switch t.Outcome {
	case trace.Delivered, trace.DeadLettered, trace.GivenUp:
	default:
		return
	}
	index := "none"
	if t.Target != nil {
		index = strconv.Itoa(*t.Target)
	}
	if m.sent[t.Rule+" "+index] {
		return
	}
	m.sent[t.Rule+" "+index] = true
	begin := m.evaluated
	if begin.IsZero() || begin.After(t.At) {
		begin = t.At
	}
	s := &span{
		at: m.at.MessageSpan(t.Seq, trace.Target, t.Rule, index), parent: m.at.MessageSpan(t.Seq, trace.Rule, t.Rule).Span,
		name: "send " + t.Sink, kind: otel.SpanKindProducer, begin: begin, end: t.At,
		attributes: []attribute.KeyValue{
			attribute.String("cellgate.sink", t.Sink), attribute.String("cellgate.rule", t.Rule), attribute.String("cellgate.target", index),
			attribute.String("cellgate.outcome", t.Outcome),
		},
	}
	if t.Outcome != trace.Delivered {
		s.failed = t.Outcome + ": " + t.Reason
	}
	a.e.emit(s)
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/trace"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// Options configure a Sink.
type Options struct {
	// Producer is owned by the sink, which closes it.
	Producer *kafkaclient.Producer
	// Cell is the value of the header cell.
	Cell string
	// Outbox makes this the sink for central targets: lane p0 is the topic central.p0, and the header central-topic
	// names the record's topic at the centre.
	Outbox bool
	// Sampling selects the traced messages.
	Sampling *trace.Sampling `zero:"none"`
}

// maxKept is the largest buffer that is reused.
const maxKept = 64 << 10

// Sink implements sink.Sink for Kafka.
type Sink struct {
	o    Options
	jobs sync.Pool // *job
}

// New returns a sink. While the cluster is away messages wait in the producer.
func New(o Options) *Sink {
	s := &Sink{o: o}
	s.jobs.New = func() any { return &job{s: s} }
	if o.Outbox {
		o.Producer.Prepare(kafkaclient.OutboxTopics()...)
	}
	return s
}

// Name implements sink.Sink: kafka or central.
func (s *Sink) Name() string { return string(s.Kind()) }

// Kind implements sink.Sink.
func (s *Sink) Kind() op.SinkKind {
	if s.o.Outbox {
		return op.SinkCentral
	}
	return op.SinkKafka
}

// Announce implements sink.Sink.
func (s *Sink) Announce(topics []string) {
	if !s.o.Outbox {
		s.o.Producer.Prepare(topics...)
	}
}

// Parker implements sink.Sink.
func (s *Sink) Parker() sink.Parker { return s.o.Producer }

// Health implements sink.Sink.
func (s *Sink) Health() remote.Health { return s.o.Producer.Health() }

// Close implements sink.Sink.
func (s *Sink) Close(ctx context.Context) error { return s.o.Producer.Close(ctx) }

// job is a message in flight: its record, and in buf all bytes that the record refers to.
type job struct {
	s      *Sink
	record kafkaclient.Record
	ticket sink.Ticket
	buf    []byte
}

// Deliver implements sink.Sink. It is safe for concurrent use. It allocates only while the pool of jobs grows, and for
// templated topics.
func (s *Sink) Deliver(m *sink.Message, t sink.Ticket) { s.o.Producer.Produce(&s.job(m, t).record) }

// job returns the record of a message.
func (s *Sink) job(m *sink.Message, t sink.Ticket) *job {
	j := s.jobs.Get().(*job) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	j.ticket = t
	if j.buf == nil {
		j.buf = make([]byte, 0, s.room(m)) // growing it by doubling would waste half as much again in a full window
	}
	b := j.buf[:0]
	b = append(b, m.Out.Key...)
	key := len(b)
	b = append(b, m.Out.Value...)
	value := len(b)
	b, n := s.headers(b, m)
	j.buf = b
	j.record = kafkaclient.Record{
		Topic: s.topic(m.Out), Value: b[key:value:value], Headers: b[value:], HeaderCount: n,
		Time: m.Record.ReceivedAt, Done: j, Parker: j,
	}
	if key > 0 {
		j.record.Key = b[:key:key]
	}
	return j
}

// room estimates the message's bytes: the fixed headers are 128 bytes plus their values, and 32 with an epoch.
func (s *Sink) room(m *sink.Message) int {
	n := 128 + len(m.Out.Key) + len(m.Out.Value) + len(s.o.Cell) + len(m.Record.VIN()) + len(m.Record.Topic) + 64
	if m.Record.Epoch != 0 {
		n += 32
	}
	for _, h := range m.Out.Headers {
		n += 4 + len(h.Name) + len(h.Value)
	}
	return n
}

func (s *Sink) topic(out *op.Rendered) string {
	if !s.o.Outbox {
		return out.Topic
	}
	switch out.Lane {
	case "p0":
		return kafkaclient.OutboxP0
	case "p1":
		return kafkaclient.OutboxP1
	}
	return kafkaclient.OutboxP2
}

// headers appends the record's headers: the fixed ones, those of the rule, and the MQTT 5 user properties with a
// prefix, so that a vehicle cannot forge the others. A message without headers still has the one that the sync worker
// needs.
func (s *Sink) headers(b []byte, m *sink.Message) ([]byte, int) {
	rec := m.Record
	if m.Out.Bare {
		if !s.o.Outbox {
			return b, 0
		}
		return kafkaclient.AppendHeader(b, kafkaclient.HeaderCentralTopic, m.Out.Topic), 1
	}
	n := 5
	b = kafkaclient.AppendHeader(b, "cell", s.o.Cell)
	b = kafkaclient.AppendHeader(b, "vin", rec.VIN())
	if rec.Kind == message.KindPublish {
		b = kafkaclient.AppendHeader(b, "topic", rec.Topic)
	} else {
		n--
	}
	var text [96]byte
	b = kafkaclient.AppendHeader(b, "msg-id", m.AppendMsgID(text[:0]))
	b = kafkaclient.AppendHeader(b, "received-at", message.AppendTime(text[:0], rec.ReceivedAt))
	if rec.Epoch != 0 {
		b = kafkaclient.AppendHeader(b, "epoch", strconv.AppendUint(text[:0], rec.Epoch, 10))
		n++
	}
	for _, h := range m.Out.Headers {
		b = kafkaclient.AppendHeader(b, h.Name, h.Value)
		n++
	}
	if s.o.Outbox {
		b = kafkaclient.AppendHeader(b, kafkaclient.HeaderCentralTopic, m.Out.Topic)
		n++
	}
	b, users := s.userHeaders(b, m)
	return b, n + users
}

// userHeaders appends the user properties with a prefix, so that none can be taken for one of ours. The traceparent
// keeps its own name, which tracing tools expect: that of the record's span, else the vehicle's.
func (s *Sink) userHeaders(b []byte, m *sink.Message) ([]byte, int) {
	user := m.Record.Props.User
	n := len(user)
	for _, u := range user {
		b = kafkaclient.AppendHeader(b, "mqtt-"+u.Name, u.Value)
	}
	rule, target := ruleOf(m.Out)
	if parent := s.o.Sampling.Target(m.Record, rule, target); parent != "" {
		b, n = kafkaclient.AppendHeader(b, trace.ParentProperty, parent), n+1
	}
	return b, n
}

// ruleOf returns the headers that name a message's rule and target.
func ruleOf(out *op.Rendered) (rule, target string) {
	for _, h := range out.Headers {
		switch h.Name {
		case "rule":
			rule = h.Value
		case "target":
			target = h.Value
		}
	}
	return rule, target
}

// Produced implements kafkaclient.Completion.
func (j *job) Produced(_ *kafkaclient.Record, err error) {
	t := j.ticket
	j.free()
	switch {
	case err == nil:
		t.Delivered()
	case errors.Is(err, kafkaclient.ErrRefused):
		t.Refused(err)
	case errors.Is(err, kafkaclient.ErrAbandoned):
		t.Dropped(sink.Retention)
	}
	// Otherwise the producer was closed: the message stays pending and is delivered after the next start.
}

// Park implements kafkaclient.Parker.
func (j *job) Park(dest string, why error) bool {
	if errors.Is(why, kafkaclient.ErrMissingTopic) {
		why = fmt.Errorf("%w: %w", sink.ErrMissing, why)
	}
	if !j.ticket.Park(dest, why) {
		return false
	}
	j.free()
	return true
}

// Patient implements kafkaclient.Parker.
func (j *job) Patient() bool { return j.ticket.Patient() }

// Abandoned implements kafkaclient.Parker.
func (j *job) Abandoned() bool { return j.ticket.Abandoned() }

func (j *job) free() {
	j.record = kafkaclient.Record{}
	j.ticket = sink.Ticket{}
	if cap(j.buf) > maxKept {
		j.buf = nil
	}
	j.s.jobs.Put(j)
}

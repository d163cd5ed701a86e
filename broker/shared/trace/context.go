package trace

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"

	"cellgate/broker/shared/message"
)

// ParentProperty is the MQTT 5 user property, the HTTP header and the Kafka header that carries a Context (W3C Trace Context, 3.2).
const ParentProperty = "traceparent"

// Context identifies a span in a trace.
type Context struct {
	Trace   [16]byte
	Span    [8]byte
	Sampled bool
}

// parseParent parses a traceparent: version, trace, parent and flags in lower-case hexadecimal, without zero ids. Later
// versions may have more fields.
func parseParent(s string) (c Context, ok bool) {
	if len(s) < 55 || s[:2] == "ff" || len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return c, false
	}
	for i := range 55 {
		dash := i == 2 || i == 35 || i == 52
		if dash != (s[i] == '-') || !dash && (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return c, false
		}
	}
	var flags [1]byte
	_, _ = hex.Decode(c.Trace[:], []byte(s[3:35]))
	_, _ = hex.Decode(c.Span[:], []byte(s[36:52]))
	_, _ = hex.Decode(flags[:], []byte(s[53:55]))
	c.Sampled = flags[0]&1 != 0
	return c, c.Trace != [16]byte{} && c.Span != [8]byte{}
}

// String returns the traceparent.
func (c Context) String() string {
	b := make([]byte, 0, 55)
	b = hex.AppendEncode(append(b, "00-"...), c.Trace[:])
	b = hex.AppendEncode(append(b, '-'), c.Span[:])
	if c.Sampled {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// child returns a span of the same trace. The same parts always give the same span: the header of a Kafka record names
// a span that is exported later.
func (c Context) child(parts ...string) Context {
	sum := sum(string(c.Trace[:]), parts...)
	copy(c.Span[:], sum[:])
	return c
}

func sum(first string, parts ...string) [sha256.Size]byte {
	text := []byte(first)
	for _, p := range parts {
		text = append(append(text, 0), p...)
	}
	return sha256.Sum256(text)
}

// Parent returns the first traceparent among a message's user properties, "" if there is none.
func Parent(user []message.UserProperty) string {
	for _, u := range user {
		if u.Name == ParentProperty {
			if _, ok := parseParent(u.Value); ok {
				return u.Value
			}
		}
	}
	return ""
}

// Sampling chooses the messages and commands to trace: those that their sender traces, and a share of those without a
// traceparent. It depends only on the message, so that every part of the gateway chooses the same, also after a
// restart. A nil Sampling chooses none.
type Sampling struct {
	below uint64 // bound of a message's mixed sequence
	all   bool
	node  string
	epoch uint64
}

// NewSampling chooses a share, 0 to 1, of the messages that the gateway node receives; epoch is the journal's.
func NewSampling(share float64, node string, epoch uint64) *Sampling {
	return &Sampling{below: uint64(share * (1 << 32) * (1 << 31)), all: share >= 1, node: node, epoch: epoch}
}

// Message returns the trace of a message with the sender's span, which is zero if there is none.
func (s *Sampling) Message(rec *message.Record) (Context, bool) {
	if s == nil || rec.Kind != message.KindPublish {
		return Context{}, false
	}
	return s.choose(Parent(rec.Props.User), mix(rec.Origin()), func() string { return message.ID(s.node, s.epoch, rec.Origin()) })
}

// Command returns the trace of a command.
func (s *Sampling) Command(id, parent string) (Context, bool) {
	if s == nil {
		return Context{}, false
	}
	sum := sum("command", id)
	return s.choose(parent, binary.BigEndian.Uint64(sum[:]), func() string { return "command " + id })
}

func (s *Sampling) choose(parent string, number uint64, id func() string) (Context, bool) {
	if c, ok := parseParent(parent); ok {
		return c, c.Sampled
	}
	if !s.all && number>>1 >= s.below {
		return Context{}, false
	}
	c := Context{Sampled: true}
	sum := sum("trace", id())
	copy(c.Trace[:], sum[:])
	return c, true
}

// Target returns the traceparent of what a rule sends to a target: that of its span if the message is traced, else the
// sender's. It is "" if there is neither.
func (s *Sampling) Target(rec *message.Record, rule, target string) string {
	if c, sampled := s.Message(rec); sampled {
		return c.MessageSpan(rec.Seq, Target, rule, target).String()
	}
	return Parent(rec.Props.User)
}

// mix spreads sequences over all numbers (splitmix64).
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// CommandSpan returns a span of a command: the whole, or one of its states.
func (c Context) CommandSpan(id, what string) Context { return c.child("command", id, what) }

// MessageSpan returns a span of a message: publish, journal, rule, or what a rule sends, named by the headers rule and
// target of its Kafka record.
func (c Context) MessageSpan(seq uint64, what string, of ...string) Context {
	return c.child(append([]string{what, strconv.FormatUint(seq, 10)}, of...)...)
}

package rules

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"cellgate/broker/message/field"
)

// TargetError is the Target of a decision that is an evaluation error.
const TargetError = 0xFFFF

// TargetUndecoded is the Target of the decision about a record whose payload cannot be decoded: one for all the rules that
// need a field of it.
const TargetUndecoded = 0xFFFE

// Decision says that one rule sends one record to one of its targets, or that the rule could not be
// evaluated on it. The decisions of one record stand in the order of the set's rules, those of one rule
// in the order of its targets, so a rule's match is counted when Rule changes. One with TargetUndecoded comes last.
type Decision struct {
	// Rule is the rule's index in Set.Rules.
	Rule uint16
	// Target is the index in the rule's `to`, TargetError or TargetUndecoded.
	Target uint16
	// Undecoded are all the rules of TargetUndecoded, from Rule on.
	Undecoded []uint16
	// Shadow marks the match of a rule whose mode is shadow: one decision, Target 0, or TargetError with
	// Err. It is counted and never delivered; Render refuses it.
	Shadow bool
	// Err is not empty when the rule could not be evaluated: the reason, without payload contents. The
	// record then goes to the rule's on_error topic, with TargetUndecoded to the set's.
	Err string
	// Values are the operators' values that a template or expression of the target refers to, as a JSON
	// object; nil when it refers to none.
	Values []byte
}

// ErrBadDecision is wrapped by every error of DecodeDecision.
var ErrBadDecision = errors.New("damaged decision")

const (
	decisionShadow = 1 << iota
	decisionErr
	decisionValues
	decisionUndecoded
)

// Append encodes d behind dst:
//
//	bits    1 byte   1 shadow, 2 an error follows, 4 values follow, 8 rules follow
//	rule    uvarint
//	target  uvarint
//	err     uvarint length, bytes; only with bit 2
//	values  uvarint length, bytes; only with bit 4
//	rules   uvarint count, uvarints; only with bit 8
func (d *Decision) Append(dst []byte) []byte {
	var bits byte
	if d.Shadow {
		bits |= decisionShadow
	}
	if d.Err != "" {
		bits |= decisionErr
	}
	if len(d.Values) > 0 {
		bits |= decisionValues
	}
	if len(d.Undecoded) > 0 {
		bits |= decisionUndecoded
	}
	dst = append(dst, bits)
	dst = binary.AppendUvarint(dst, uint64(d.Rule))
	dst = binary.AppendUvarint(dst, uint64(d.Target))
	if d.Err != "" {
		dst = field.AppendBytes(dst, d.Err)
	}
	if len(d.Values) > 0 {
		dst = field.AppendBytes(dst, d.Values)
	}
	if len(d.Undecoded) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(d.Undecoded)))
		for _, r := range d.Undecoded {
			dst = binary.AppendUvarint(dst, uint64(r))
		}
	}
	return dst
}

// DecodeDecision reads one decision from the front of b and returns how many bytes it took. Values
// alias b. The error wraps ErrBadDecision.
func DecodeDecision(b []byte) (Decision, int, error) {
	r := field.Reader{B: b}
	bits, rule, target := r.Byte(), r.Uvarint(), r.Uvarint()
	d := Decision{Rule: uint16(rule), Target: uint16(target), Shadow: bits&decisionShadow != 0} //nolint:gosec // checked below
	if bits&decisionErr != 0 {
		d.Err = string(r.Bytes())
	}
	if bits&decisionValues != 0 {
		d.Values = r.Bytes()
	}
	if bits&decisionUndecoded != 0 {
		for n := r.Count(1); n > 0; n-- {
			next := r.Uvarint()
			r.Bad = r.Bad || next > 0xFFFF
			d.Undecoded = append(d.Undecoded, uint16(next)) //nolint:gosec // checked
		}
	}
	if r.Bad || rule > 0xFFFF || target > 0xFFFF || bits >= decisionUndecoded<<1 {
		return Decision{}, 0, fmt.Errorf("%w at byte %d of %d", ErrBadDecision, r.Off, len(b))
	}
	return d, r.Off, nil
}

// SinkKind names where a target leads.
type SinkKind uint8

// The sinks. Evaluation errors go to SinkKafka, as dead letters.
const (
	SinkKafka SinkKind = iota + 1
	SinkRedis
	SinkCentral
)

// String returns the sink's name in metrics and in the ledger.
func (k SinkKind) String() string {
	switch k {
	case SinkKafka:
		return "kafka"
	case SinkRedis:
		return "redis"
	case SinkCentral:
		return "central"
	default:
		return "none"
	}
}

// Header is a header of a Kafka record.
type Header struct{ Name, Value string }

// Rendered is the message that a decision makes of a record. Reuse one for many calls of Render: each
// call overwrites all of it. Key, Value and the byte slices of Redis alias either the record or buffers
// of the Rendered itself; they hold until the next Render into it, and as long as the record's payload.
type Rendered struct {
	Sink SinkKind
	// Topic is the Kafka topic; for SinkCentral the topic of the central unit's Kafka.
	Topic string
	// Key is the Kafka key: the VIN unless the rule says otherwise.
	Key []byte
	// Value is the Kafka value: the payload as received, or the transform as JSON.
	Value []byte
	// Headers are those that the rule decides: rule, target, content-type when known, and for a dead
	// letter error. The sink adds cell, vin, topic, msg-id, received-at and mqtt-{name}.
	Headers []Header
	// Lane is p0, p1 or p2; SinkCentral only.
	Lane string
	// Redis is the operation; SinkRedis only.
	Redis RedisOp
	// DeadLetter says that this is the original message on its way to an error topic; Reason says why.
	DeadLetter bool
	Reason     string

	// buf holds what Key, Value and the Redis slices alias. It only grows within one Render, so slices
	// taken before it moves keep their contents.
	buf []byte
}

// RedisKind names a Redis operation.
type RedisKind uint8

// The Redis operations; the comment gives the command that the sink sends.
const (
	RedisHash      RedisKind = iota + 1 // HSET Key Fields…; with NewerThan only if not older (a script)
	RedisString                         // SET Key Value
	RedisStream                         // XADD Key MAXLEN ~ MaxLen * Fields…
	RedisSetAdd                         // SADD Key Member
	RedisSetRemove                      // SREM Key Member
	RedisGeo                            // GEOADD Key Lon Lat Member
	RedisPublish                        // PUBLISH Key Value
	RedisExpire                         // PEXPIRE Key TTL
	RedisDelete                         // DEL Key
)

// RedisOp is one operation on one key.
type RedisOp struct {
	Kind RedisKind
	Key  string
	// Fields of RedisHash and RedisStream, in the rule's order; names are unique.
	Fields []Field
	// Member of RedisSetAdd, RedisSetRemove and RedisGeo.
	Member []byte
	// Value of RedisString and RedisPublish.
	Value    []byte
	Lon, Lat float64
	// TTL is set on Key after the operation when it is above 0. The range is 1 ms to 10 years.
	TTL time.Duration
	// MaxLen trims a stream approximately; 0 leaves it.
	MaxLen int64
	// NewerThan names the hash field that keeps the time of the last write; "" when the rule does not ask
	// of order. The write takes place only if (At, Seq) is not before what the hash holds; of a message without an
	// event time only if neither At nor Seq is.
	NewerThan string
	// At is the message's event time, else its received time, in milliseconds since the Unix epoch; OwnTime says that
	// it is the event time.
	At      int64
	OwnTime bool
	// Believed is up to when the hash's time is believed: one beyond is a wrong clock's and holds nobody up whose
	// message is not from beyond too.
	Believed int64
	// Seq is the record's journal sequence; it decides between equal At.
	Seq uint64
}

// AtText is the form in which At is kept in the NewerThan field: RFC 3339 in UTC with milliseconds,
// always 24 characters, so that text order is time order.
func (o *RedisOp) AtText() string {
	return string(AppendTime(nil, o.At))
}

// Field is one field of a hash or stream entry.
type Field struct {
	Name  string
	Value []byte
}

// timeLayout writes every time that leaves the gateway.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

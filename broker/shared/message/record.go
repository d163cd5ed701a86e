package message

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// Kind is the type of a journal record.
type Kind uint8

// The kinds of record. Their numbers are on disk: never renumber, only append.
const (
	// KindPublish is an accepted PUBLISH.
	KindPublish Kind = 1
	// KindRelease is the PUBREL of a QoS 2 PUBLISH, identified by Client and PacketID.
	KindRelease Kind = 2
	// KindSessionReset means that Client began a new session: its QoS 2 identifiers are free again.
	KindSessionReset Kind = 3
	// KindRuleSet means that the rule set whose hash is the payload applies to every later record.
	KindRuleSet Kind = 4
	// KindClockStep means that the wall clock has stepped: ReceivedAt before and after it belong to different clocks.
	// See ClockStep.
	KindClockStep Kind = 5
	// KindTick means that time has passed, for rules that send something without a message. See Tick.
	KindTick Kind = 6
	// KindLimit means that from here on a rule sends nothing because of its errors, or sends again. See Limit.
	KindLimit Kind = 7
	// KindOperatorState means that the operator state of the vehicle Client has come from, or gone to, another gateway.
	// See OperatorState.
	KindOperatorState Kind = 8
)

// Flags describe a record and, or-ed together, a whole batch: a reader skips batches without wanted records undecoded.
type Flags uint8

// The flags of a record. Their values are on disk.
const (
	// FlagUplink marks a PUBLISH below v1/{vin}/up/.
	FlagUplink Flags = 1 << iota
	// FlagResult marks a PUBLISH below v1/{vin}/res/: a report about a command.
	FlagResult
	// FlagRetain marks a PUBLISH whose RETAIN bit is set.
	FlagRetain
	// FlagOther marks a PUBLISH on any other topic.
	FlagOther
	// FlagControl marks everything that is not a PUBLISH.
	FlagControl
)

// Record is one entry of the journal.
//
// Payload, Props.Correlation and the strings may alias a buffer of the code that filled the record: copy them (see
// Clone) to keep them longer than that code allows.
type Record struct {
	// Seq is the record's position in the journal, from 1, without gaps. The journal assigns it.
	Seq uint64
	// ReceivedAt is the wall clock time when the journal took the record, in ms since the Unix epoch. The journal
	// assigns it. It decreases only at a KindClockStep.
	ReceivedAt int64
	// Original is the sequence of the record that this one repeats, because a vehicle without an acknowledgement sent
	// the message again. 0 means none is known.
	Original uint64
	// Epoch is that of the vehicle's connection, as in presence events: of two connections of a vehicle, to any
	// gateways, the later one has the higher epoch. Until the cell has answered it is between the previous connection's
	// and its own. All records of a connection have its epoch, also the last ones that are journaled when it has ended. 0 means unknown.
	Epoch uint64

	Kind     Kind
	QoS      byte // 0 to 2
	Retain   bool
	Dup      bool
	PacketID uint16 // 0 for QoS 0

	// Client is the session key of the publisher (see SessionKey); a vehicle's is its VIN.
	Client string
	// Topic is the topic name, with any alias resolved.
	Topic   string
	Payload []byte
	Props   Properties
}

// Properties are the MQTT 5 properties of a PUBLISH that travel with the message (MQTT 5, 3.3.2.3).
type Properties struct {
	ContentType   string
	ResponseTopic string
	Correlation   []byte // nil: none; empty is a value
	User          []UserProperty
	// Expiry is the message expiry interval in seconds from ReceivedAt. It is valid only with HasExpiry, because 0 is a
	// value.
	Expiry    uint32
	HasExpiry bool
	// UTF8Payload is a payload format indicator of 1. BytesPayload is one of 0, which means the same as none.
	UTF8Payload  bool
	BytesPayload bool
	// EmptyContentType means a content type that is present and empty.
	EmptyContentType bool
}

// UserProperty is an MQTT 5 user property. Names may repeat; order counts.
type UserProperty struct{ Name, Value string }

// IsZero reports whether no property is set.
func (p *Properties) IsZero() bool {
	return p.ContentType == "" && p.ResponseTopic == "" && p.Correlation == nil &&
		len(p.User) == 0 && !p.HasExpiry && !p.UTF8Payload && !p.BytesPayload && !p.EmptyContentType
}

// Flags returns the record's flags.
func (r *Record) Flags() Flags {
	if r.Kind != KindPublish {
		return FlagControl
	}
	var f Flags
	switch _, branch, _ := SplitTopic(r.Topic); branch {
	case "up":
		f = FlagUplink
	case "res":
		f = FlagResult
	default:
		f = FlagOther
	}
	if r.Retain {
		f |= FlagRetain
	}
	return f
}

// VIN returns the record's vehicle: the second level of a v1 topic, else "". A KindTick about a vehicle and a
// KindOperatorState have it in Client.
func (r *Record) VIN() string {
	if r.Kind == KindTick || r.Kind == KindOperatorState {
		return r.Client
	}
	vin, _, _ := SplitTopic(r.Topic)
	return vin
}

// IsCommand reports whether the record is a PUBLISH that sends a command to a vehicle: v1/{vin}/cmd/{id}/{name} by
// another client.
func (r *Record) IsCommand() bool {
	vin, branch, rest := SplitTopic(r.Topic)
	if r.Kind != KindPublish || branch != "cmd" || strings.Count(rest, "/") != 1 {
		return false
	}
	client, _, _ := SplitSessionKey(r.Client)
	return client != vin
}

// Origin returns the sequence that identifies the message: that of the first record if this one repeats it.
func (r *Record) Origin() uint64 {
	if r.Original != 0 {
		return r.Original
	}
	return r.Seq
}

// Time returns ReceivedAt in UTC.
func (r *Record) Time() time.Time { return time.UnixMilli(r.ReceivedAt).UTC() }

// ExpiresAt returns when the message expires, and false if it never does.
func (r *Record) ExpiresAt() (time.Time, bool) {
	if !r.Props.HasExpiry {
		return time.Time{}, false
	}
	return r.Time().Add(time.Duration(r.Props.Expiry) * time.Second), true
}

// Clone returns a copy that shares only immutable strings with r.
func (r *Record) Clone() Record {
	c := *r
	c.Payload = append([]byte(nil), r.Payload...)
	c.Props.Correlation = bytes.Clone(r.Props.Correlation)
	c.Props.User = append([]UserProperty(nil), r.Props.User...)
	return c
}

// ID returns the permanent identity of a journal record, the msg-id of everything made from it.
func ID(node string, epoch, seq uint64) string {
	b := make([]byte, 0, len(node)+38)
	b = append(b, node...)
	b = append(b, '-')
	b = strconv.AppendUint(b, epoch, 36)
	b = append(b, '-')
	b = strconv.AppendUint(b, seq, 10)
	return string(b)
}

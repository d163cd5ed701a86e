package op

import "time"

// SinkKind names where a target leads: the target's name, in rules, metrics and ledger.
type SinkKind string

// Header is a header of a Kafka record.
type Header struct{ Name, Value string }

// Rendered is the message that a decision makes of a record. Reuse one for many calls of Render: each
// call overwrites all of it. Key, Value and the byte slices of Redis alias either the record or buffers
// of the Rendered itself; they hold until the next Render into it, and as long as the record's payload.
type Rendered struct {
	Sink SinkKind
	// Topic is the Kafka topic; for SinkCentral the topic of the central unit's Kafka, for SinkMQTT an MQTT topic, for
	// others what the target calls the place.
	Topic string
	// Key is the Kafka key: the VIN unless the rule says otherwise.
	Key []byte
	// Value is the Kafka value: the payload as received, or the transform as JSON.
	Value []byte
	// Headers are those that the rule decides: rule, target, content-type when known, and for a dead
	// letter error. The sink adds cell, vin, topic, msg-id, received-at and mqtt-{name}.
	Headers []Header
	// Bare says that there are to be no headers, those that the sink adds included.
	Bare bool
	// TTL is how long the message is good for, 0 for ever; SinkMQTT only.
	TTL time.Duration
	// Lane is p0, p1 or p2; SinkCentral only.
	Lane string
	// Redis is the operation; SinkRedis only.
	Redis RedisOp
	// DeadLetter says that this is the original message on its way to an error topic; Reason says why.
	DeadLetter bool
	Reason     string

	// Buf holds what Key, Value and the Redis slices alias. It only grows within one Render, so slices
	// taken before it moves keep their contents.
	Buf []byte
}

// Reset forgets the message and keeps the memory.
func (r *Rendered) Reset() {
	*r = Rendered{Headers: r.Headers[:0], Buf: r.Buf[:0], Redis: RedisOp{Fields: r.Redis.Fields[:0]}}
}

// Header adds a header.
func (r *Rendered) Header(name, value string) {
	r.Headers = append(r.Headers, Header{Name: name, Value: value})
}

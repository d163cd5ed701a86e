package op

import "time"

// SinkKind is the name of a target in rules, metrics and the ledger.
type SinkKind string

// Header is a header of a Kafka record.
type Header struct{ Name, Value string }

// Rendered is the message of a decision. Reuse it: each call of Render overwrites all of it. Key, Value and the byte
// slices in Redis alias the record or buffers of the Rendered. They are valid until the next Render into it, and as
// long as the record's payload is.
type Rendered struct {
	Sink SinkKind
	// Topic is the Kafka topic: for SinkCentral of the central unit's Kafka. For SinkMQTT it is an MQTT topic, for
	// other sinks the destination.
	Topic string
	// Key is the Kafka key: the VIN unless the rule sets another.
	Key []byte
	// Value is the Kafka value: the payload as received, or the transform as JSON.
	Value []byte
	// Headers are the headers that the rule sets: rule, target, content-type if known, and error for a dead letter. The
	// sink adds cell, vin, topic, msg-id, received-at and mqtt-{name}.
	Headers []Header
	// Bare suppresses all headers, including those that the sink adds.
	Bare bool
	// TTL is the lifetime of the message, 0 for no limit; SinkMQTT only.
	TTL time.Duration
	// Lane is p0, p1 or p2; SinkCentral only.
	Lane string
	// Redis is the operation; SinkRedis only.
	Redis RedisOp
	// DeadLetter means that this is the original message for an error topic; Reason says why.
	DeadLetter bool
	Reason     string

	// Buf is the memory that Key, Value and the Redis slices alias. It only grows within one Render, so slices taken
	// before a reallocation stay valid.
	Buf []byte
}

// Reset clears the message and keeps the memory.
func (r *Rendered) Reset() {
	*r = Rendered{Headers: r.Headers[:0], Buf: r.Buf[:0], Redis: RedisOp{Fields: r.Redis.Fields[:0]}}
}

// Header adds a header.
func (r *Rendered) Header(name, value string) {
	r.Headers = append(r.Headers, Header{Name: name, Value: value})
}

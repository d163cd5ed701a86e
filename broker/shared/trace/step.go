package trace

import (
	"encoding/json"
	"time"
)

// The steps of a message.
const (
	Received     = "received"     // a connection has accepted it, and the journal has assigned its sequence
	Refused      = "refused"      // a connection has refused it; it has no sequence
	Journaled    = "journaled"    // it is durable
	Rule         = "rule"         // a rule has evaluated it
	Target       = "target"       // a target's message is final, or waits
	Acknowledged = "acknowledged" // the connection's writer has its acknowledgement
	// Dropped counts the steps left out since the last one, because of the rate or the buffer.
	Dropped = "dropped"
)

// Outcomes of rules and targets.
const (
	Matched      = "matched"
	Stopped      = "stopped" // the rule sends nothing; Stage and Reason say why
	Failed       = "failed"  // the rule could not be evaluated
	Delivered    = "delivered"
	DeadLettered = "dead_lettered"
	GivenUp      = "dropped" // by a policy, named in Reason
	Parked       = "parked"  // its destination is parked: it waits in the destination's log
	Waits        = "waits"   // the sink lags: it waits in the decision log
	RefusedBy    = "refused" // by the store; it becomes a dead letter
)

// Step is one step of one message.
type Step struct {
	Step string    `json:"step"`
	At   time.Time `json:"at"`
	// Seq is the message's sequence in the journal, which joins its steps.
	Seq   uint64 `json:"seq,omitempty"`
	VIN   string `json:"vin,omitempty"`
	Topic string `json:"topic,omitempty"`
	// Client, QoS and Bytes are set for Received and Refused.
	Client string `json:"client,omitempty"`
	QoS    *byte  `json:"qos,omitempty"`
	Bytes  *int   `json:"bytes,omitempty"`
	// Repeats is the sequence of the message that this one duplicates.
	Repeats uint64 `json:"repeats,omitempty"`
	// Parent is the sender's traceparent.
	Parent string `json:"traceparent,omitempty"`

	Rule    string `json:"rule,omitempty"`
	Target  *int   `json:"target,omitempty"` // index in the rule's `to`; absent for its on_error
	Sink    string `json:"sink,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Stage   string `json:"stage,omitempty"` // the rule's stage where the message stopped
	Reason  string `json:"reason,omitempty"`
	// Code is the MQTT reason code of Acknowledged and Refused.
	Code *byte `json:"reason_code,omitempty"`
	// Values are the evaluated parts of the rule's expressions, with their values.
	Values json.RawMessage `json:"values,omitempty"`
	// Count is set for Dropped.
	Count uint64 `json:"count,omitempty"`
}

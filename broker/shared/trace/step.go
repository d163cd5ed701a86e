package trace

import (
	"encoding/json"
	"time"
)

// The steps of a message.
const (
	Received     = "received"     // a connection has taken it, and the journal has given it a sequence
	Refused      = "refused"      // a connection has not taken it; it has no sequence
	Journaled    = "journaled"    // it is durable
	Rule         = "rule"         // a rule has looked at it
	Target       = "target"       // what a rule sends has come to an end, or waits
	Acknowledged = "acknowledged" // its acknowledgement was given to the connection's writer
	// Dropped says how many steps were left out since the last one: there were more than the rate or the buffer takes.
	Dropped = "dropped"
)

// Outcomes of rules and targets.
const (
	Matched      = "matched"
	Stopped      = "stopped" // the rule sends nothing; Stage and Reason say why
	Failed       = "failed"  // the rule could not be evaluated
	Delivered    = "delivered"
	DeadLettered = "dead_lettered"
	GivenUp      = "dropped" // a policy has given it up; Reason says which
	Parked       = "parked"  // its destination takes nothing: it waits in a log of the destination's
	Waits        = "waits"   // the sink lags: it waits in the decision log
	RefusedBy    = "refused" // by the store; a dead letter is made of it
)

// Step is one step of one message.
type Step struct {
	Step string    `json:"step"`
	At   time.Time `json:"at"`
	// Seq is the message's sequence in the journal, which joins its steps.
	Seq   uint64 `json:"seq,omitempty"`
	VIN   string `json:"vin,omitempty"`
	Topic string `json:"topic,omitempty"`
	// Client, QoS and Bytes are of Received and Refused.
	Client string `json:"client,omitempty"`
	QoS    *byte  `json:"qos,omitempty"`
	Bytes  *int   `json:"bytes,omitempty"`
	// Repeats is the sequence of the message that this one repeats.
	Repeats uint64 `json:"repeats,omitempty"`
	// Parent is the traceparent that the sender gave it.
	Parent string `json:"traceparent,omitempty"`

	Rule    string `json:"rule,omitempty"`
	Target  *int   `json:"target,omitempty"` // index in the rule's `to`; absent for its on_error
	Sink    string `json:"sink,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Stage   string `json:"stage,omitempty"` // of the rule, where the message stopped
	Reason  string `json:"reason,omitempty"`
	// Code is the MQTT reason code of Acknowledged and Refused.
	Code *byte `json:"reason_code,omitempty"`
	// Values are the parts of the rule's expressions that were looked at, with their values.
	Values json.RawMessage `json:"values,omitempty"`
	// Count is of Dropped.
	Count uint64 `json:"count,omitempty"`
}

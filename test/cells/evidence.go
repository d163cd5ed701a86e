package cells

import (
	"sync"
	"time"

	"cellgate/test/scenario"
)

// Evidence is everything observed of a cell from outside.
type Evidence struct {
	Commands []*Command
	Vehicles []*Vehicle
	// Ends has, per command id, the final answer of every gateway.
	Ends map[string][]End
	// Events are the records of vehicle.command-results, Telemetry and Presence those of their topics.
	Events    []Event
	Telemetry []Telemetered
	Presence  []scenario.PresenceEvent
	// Truth has, per VIN, the gateway that it is connected to at the end; "" for none.
	Truth  map[string]string
	Faults []Fault
	// Overlap is how long a vehicle may have two connections without a fault.
	Overlap time.Duration
}

// Command is a sender's request and all answers to it.
type Command struct {
	ID, VIN string
	Via     string // http, mqtt, kafka
	// Meaning is in the payload. It identifies the intent of the sender, which must be executed once, whatever the id.
	Meaning string
	TTL     time.Duration
	Began   time.Time

	mu      sync.Mutex
	Answers []Answer
}

// Answered records an answer.
func (c *Command) Answered(a Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.At = time.Now()
	c.Answers = append(c.Answers, a)
}

// Said is the meaning of an answer.
type Said string

// Meanings of answers.
const (
	SaidAccepted Said = "accepted"
	SaidRefused  Said = "refused"  // permanently
	SaidConflict Said = "conflict" // another command has the id
	SaidUnknown  Said = "unknown"  // 503 or no answer: repeat with the same id
	SaidState    Said = "state"    // the state of an existing command
	SaidMissing  Said = "missing"
)

// Answer is one answer of a gateway.
type Answer struct {
	At      time.Time
	Took    time.Duration
	Gateway string
	Call    string // send, cancel, look
	Said    Said
	State   string // empty if the answer has none
	Cause   string
	Expires time.Time
	Detail  string
}

// End is a gateway's final answer about a command.
type End struct {
	Gateway               string
	Missing               bool
	State, Cause, Outcome string
	Expires               time.Time
}

// Event is a value on vehicle.command-results.
type Event struct {
	ID    string `json:"id"`
	VIN   string `json:"vin"`
	State string `json:"state"`
	Cause string `json:"cause"`
}

// What is the kind of a line in a vehicle's log.
type What string

// Kinds of lines.
const (
	Entered  What = "entered"  // CONNACK
	Left     What = "left"     // the connection ended, as seen by the vehicle
	Received What = "received" // a command
	Repeated What = "repeated" // received again
	TooOld   What = "too old"  // received after its expires-at
	Executed What = "executed"
	Reported What = "reported" // its result was acknowledged
)

// Line is one line of a vehicle's log.
type Line struct {
	At                  time.Time
	What                What
	Took                time.Duration // of a CONNECT
	Connection          int
	Gateway             string
	ID, Meaning, Result string
	Expires             time.Time
}

// Ack is an acknowledged telemetry message.
type Ack struct {
	At      time.Time
	Took    time.Duration
	Seq     int64
	Gateway string
	// Before are the gateways that copies were sent to before, without an answer: one of them may have the message.
	Before []string
}

// Vehicle is a vehicle's log.
type Vehicle struct {
	VIN string

	mu    sync.Mutex
	Lines []Line
	Acked []Ack
}

// note appends a line to the log.
func (v *Vehicle) note(l Line) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l.At = time.Now()
	v.Lines = append(v.Lines, l)
}

// acked records that a message was acknowledged.
func (v *Vehicle) acked(sent time.Time, seq int64, gateway string, before ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.Acked = append(v.Acked, Ack{now, now.Sub(sent), seq, gateway, before})
}

// figures returns the latencies of acknowledgements and connects within a period.
func (v *Vehicle) figures(from, to time.Time) (acks, entries []time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := len(v.Acked) - 1; i >= 0 && v.Acked[i].At.After(from); i-- {
		if v.Acked[i].At.Before(to) {
			acks = append(acks, v.Acked[i].Took)
		}
	}
	for _, l := range v.Lines {
		if l.What == Entered && l.At.After(from) && l.At.Before(to) {
			entries = append(entries, l.Took)
		}
	}
	return acks, entries
}

// Telemetered is a record of vehicle.telemetry.
type Telemetered struct {
	VIN   string
	Seq   int64
	Epoch int64 // of the VIN's connection
	// Node, Journal and Number are the parts of the msg-id.
	Node            string
	Journal, Number uint64
}

// Faults that matter to the judge.
const (
	FaultWiped   = "wiped"   // a gateway's data_dir was removed
	FaultStopped = "stopped" // SIGSTOP of a gateway
	FaultOther   = "other"
)

// Fault is a fault and its duration.
type Fault struct {
	Kind, On string
	Name     string
	From, To time.Time
}

func (f *Fault) overlaps(from, to time.Time) bool { return f.From.Before(to) && f.To.After(from) }

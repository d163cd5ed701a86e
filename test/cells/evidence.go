package cells

import (
	"sync"
	"time"

	"cellgate/test/scenario"
)

// Evidence is all that was seen of a cell from outside.
type Evidence struct {
	Commands []*Command
	Vehicles []*Vehicle
	// Ends has for each command that has an id what every gateway says of it at the end.
	Ends map[string][]End
	// Events are those of vehicle.command-results, Telemetry and Presence the records of their topics.
	Events    []Event
	Telemetry []Telemetered
	Presence  []scenario.PresenceEvent
	// Truth has for each VIN the gateway that it is connected to at the end, "" for none.
	Truth  map[string]string
	Faults []Fault
	// Overlap is for how long a vehicle may be connected twice without a fault.
	Overlap time.Duration
}

// Command is what a sender asked for, and all that it was answered.
type Command struct {
	ID, VIN string
	Via     string // http, mqtt, kafka
	// Meaning stands in the payload, and names what the sender wants once, whatever the id.
	Meaning string
	TTL     time.Duration
	Began   time.Time

	mu      sync.Mutex
	Answers []Answer
}

// Answered writes down an answer.
func (c *Command) Answered(a Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.At = time.Now()
	c.Answers = append(c.Answers, a)
}

// Said is what an answer says.
type Said string

// What answers say.
const (
	SaidAccepted Said = "accepted"
	SaidRefused  Said = "refused"  // for good
	SaidConflict Said = "conflict" // the id is another command's
	SaidUnknown  Said = "unknown"  // 503, or no answer: repeat with this id
	SaidState    Said = "state"    // of a command that is there
	SaidMissing  Said = "missing"
)

// Answer is one answer of a gateway.
type Answer struct {
	At      time.Time
	Took    time.Duration
	Gateway string
	Call    string // send, cancel, look
	Said    Said
	State   string // of an answer that has one
	Cause   string
	Expires time.Time
	Detail  string
}

// End is what a gateway says of a command when all is over.
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

// What a vehicle writes down.
type What string

// The lines of a vehicle's log.
const (
	Entered  What = "entered"  // CONNACK
	Left     What = "left"     // the connection's end, as the vehicle sees it
	Received What = "received" // a command
	Repeated What = "repeated" // it has been received before
	TooOld   What = "too old"  // it came after its expires-at
	Executed What = "executed"
	Reported What = "reported" // its result was acknowledged
)

// Line is one of a vehicle's log.
type Line struct {
	At                  time.Time
	What                What
	Took                time.Duration // of a CONNECT
	Connection          int
	Gateway             string
	ID, Meaning, Result string
	Expires             time.Time
}

// Ack is a message of telemetry that was acknowledged.
type Ack struct {
	At      time.Time
	Took    time.Duration
	Seq     int64
	Gateway string
}

// Vehicle is a vehicle's log.
type Vehicle struct {
	VIN string

	mu    sync.Mutex
	Lines []Line
	Acked []Ack
}

// note writes a line down.
func (v *Vehicle) note(l Line) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l.At = time.Now()
	v.Lines = append(v.Lines, l)
}

// acked writes down that a message sent at a time was acknowledged.
func (v *Vehicle) acked(sent time.Time, seq int64, gateway string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.Acked = append(v.Acked, Ack{now, now.Sub(sent), seq, gateway})
}

// figures are how long acknowledgements and connects took that were given in a span of time.
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

// What goes wrong, as far as judging asks.
const (
	FaultWiped   = "wiped"   // a gateway's data_dir was removed
	FaultStopped = "stopped" // SIGSTOP of a gateway
	FaultOther   = "other"
)

// Fault is something that was wrong for a time.
type Fault struct {
	Kind, On string
	Name     string
	From, To time.Time
}

func (f *Fault) overlaps(from, to time.Time) bool { return f.From.Before(to) && f.To.After(from) }

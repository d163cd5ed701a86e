package message

import "time"

// Delivery is a message for one client, at QoS 1 (or 0 if its subscription says so).
//
// The callbacks may be nil. They run one at a time per session, on any goroutine, the sender's included, with no lock
// held; they must not block. Sent may be called more than once (a resume sends again). Exactly one of Acked and Failed
// is called last, except for a subscription of QoS 0, where Sent is the last, and at the end of the process: callbacks
// do not survive it. A sender with its own store therefore leaves Durable unset, and after a restart delivers again
// what has no outcome.
type Delivery struct {
	Topic   string
	Payload []byte
	Props   Properties
	// Durable stores the message in the state file, so that it survives a restart (without its callbacks) if the
	// session does.
	Durable bool
	// Urgent puts the message before the session's unsent messages, after other urgent ones. It must not be combined
	// with Durable: messages read back from the state file are in the order of delivery.
	Urgent bool
	// Life is how long from now the message may be sent; 0 means no limit. The client gets the rest as the message
	// expiry interval.
	Life time.Duration

	Sent   func()
	Acked  func(code byte) // the PUBACK's reason code, 0 on 3.1.1
	Failed func(err error)
}

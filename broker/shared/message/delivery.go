package message

import "time"

// Delivery is a message directed to one client, at QoS 1 (or 0 where its subscription says so).
//
// The callbacks may be nil. They run one after another per session, on whatever goroutine made them due, that of the
// sender too, with no lock held; they must not block. Sent may come more than once (a resume sends again).
// Exactly one of Acked and Failed comes last, but for a subscription of QoS 0, where Sent is the last, and for the end
// of the process: callbacks do not survive it. A sender with a store of its own therefore leaves Durable
// unset, and delivers anew after a restart what it has no outcome for.
type Delivery struct {
	Topic   string
	Payload []byte
	Props   Properties
	// Durable keeps the message in the state file, so that it survives a restart (without its callbacks) when
	// the session does.
	Durable bool
	// Urgent puts the message before those of its session that have not been sent, after other urgent ones. It is not
	// for one that is Durable: what is read back from the state file is in the order in which it was given.
	Urgent bool
	// Life is how long from now the message may be sent; 0 for ever. The client is told the rest
	// as the message expiry interval.
	Life time.Duration

	Sent   func()
	Acked  func(code byte) // the PUBACK's reason code, 0 on 3.1.1
	Failed func(err error)
}

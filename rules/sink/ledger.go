package sink

import "maps"

// SinkLedger is the account of one sink, as GET /v1/ledger gives it. Every term is counted where it
// happens, none is derived from the others; Balanced compares them.
type SinkLedger struct {
	Sink string `json:"sink"`
	// Received counts the PUBLISH records that the journal has taken, the ticks at which a rule sent the sink something, and all records that the evaluator could not read:
	// those are dropped too, by reason Corruption or JournalLost.
	Received uint64 `json:"received"`
	// Delivered counts records all of whose messages for the sink it has.
	Delivered uint64 `json:"delivered"`
	// Filtered counts records that no rule sends to the sink.
	Filtered uint64 `json:"filtered"`
	// DeadLettered counts records of which at least one message went to an error topic instead.
	DeadLettered uint64 `json:"dead_lettered"`
	// Dropped counts records of which a policy gave up at least one message, by reason.
	Dropped map[string]uint64 `json:"dropped"`
	// Pending counts records with messages that are not settled: those under way, those that wait in the decision
	// log, and those that are not evaluated.
	Pending uint64 `json:"pending"`
	// Unevaluated is the part of Pending that is in the journal and that the rules have not seen yet.
	Unevaluated uint64 `json:"unevaluated"`
	// OldestSeconds is how long ago the oldest pending record was received.
	OldestSeconds float64 `json:"oldest_seconds"`
	// Balanced is received = delivered + filtered + dead_lettered + all dropped + pending.
	Balanced bool `json:"balanced"`
}

func (l *SinkLedger) sumDropped() (n uint64) {
	for _, d := range l.Dropped {
		n += d
	}
	return n
}

// counts are the terms that only ever grow.
type counts struct {
	Received     uint64            `json:"received"`
	Filtered     uint64            `json:"filtered"`
	Delivered    uint64            `json:"delivered"`
	DeadLettered uint64            `json:"dead_lettered"`
	Dropped      map[string]uint64 `json:"dropped,omitempty"`
}

// settled counts a record's outcome.
func (c *counts) settled(o outcome, reason string) { c.add(o, reason, 1) }

func (c *counts) add(o outcome, reason string, n uint64) {
	switch o {
	case delivered:
		c.Delivered += n
	case deadLettered:
		c.DeadLettered += n
	case dropped:
		if c.Dropped == nil {
			c.Dropped = make(map[string]uint64)
		}
		c.Dropped[reason] += n
	}
}

func (c *counts) clone() counts {
	out := *c
	out.Dropped = maps.Clone(c.Dropped)
	return out
}

// unsettled is how many records of a checkpoint's counts are pending behind its cursor.
func (c *counts) unsettled() uint64 {
	n := c.Received - c.Filtered - c.Delivered - c.DeadLettered
	for _, d := range c.Dropped {
		n -= d
	}
	return n
}

// ledger puts the terms together. pending are the evaluated records that are, received is what the journal says.
func (c *counts) ledger(name string, received, pending uint64) SinkLedger {
	l := SinkLedger{
		Sink: name, Received: received, Delivered: c.Delivered, Filtered: c.Filtered,
		DeadLettered: c.DeadLettered, Dropped: make(map[string]uint64, len(c.Dropped)), Pending: pending + received - c.Received,
		Unevaluated: received - c.Received,
	}
	sum := l.Delivered + l.Filtered + l.DeadLettered + l.Pending
	for reason, n := range c.Dropped {
		l.Dropped[reason] = n
		sum += n
	}
	l.Balanced = sum == l.Received
	return l
}

package sink

import "maps"

// SinkLedger is the account of one sink, as in GET /v1/ledger. Every term is counted where it happens, none is derived
// from the others; Balanced compares them.
type SinkLedger struct {
	Sink string `json:"sink"`
	// Received counts the PUBLISH records that the journal has taken, the ticks that caused a message for the sink, and
	// all records that could not be read; these are also dropped, with the reason Corruption or JournalLost.
	Received uint64 `json:"received"`
	// Delivered counts records whose messages for the sink are all delivered.
	Delivered uint64 `json:"delivered"`
	// Filtered counts records without a message for the sink.
	Filtered uint64 `json:"filtered"`
	// DeadLettered counts records with at least one message sent to an error topic instead.
	DeadLettered uint64 `json:"dead_lettered"`
	// Dropped counts records with at least one message dropped by a policy, by reason.
	Dropped map[string]uint64 `json:"dropped"`
	// Pending counts records with unsettled messages: in flight, in the decision log, or not evaluated.
	Pending uint64 `json:"pending"`
	// Unevaluated is the part of Pending that is in the journal and not evaluated yet.
	Unevaluated uint64 `json:"unevaluated"`
	// OldestSeconds is the age of the oldest pending record.
	OldestSeconds float64 `json:"oldest_seconds"`
	// Balanced reports whether received = delivered + filtered + dead_lettered + all dropped + pending.
	Balanced bool `json:"balanced"`
}

func (l *SinkLedger) sumDropped() (n uint64) {
	for _, d := range l.Dropped {
		n += d
	}
	return n
}

// counts are the terms that never decrease.
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

// unsettled returns the number of a checkpoint's records that are pending after its cursor.
func (c *counts) unsettled() uint64 {
	n := c.Received - c.Filtered - c.Delivered - c.DeadLettered
	for _, d := range c.Dropped {
		n -= d
	}
	return n
}

// ledger combines the terms. pending counts the evaluated pending records, received is the journal's count.
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

package message

import (
	"encoding/json"
	"fmt"
)

// Limit is the payload of a KindLimit record: from here on a rule sends nothing because of too many errors, or sends
// again because an operator lifted the limit. It is readable in dumps.
type Limit struct {
	Rule string `json:"rule"`
	// Version is the rule's version: the limit does not apply to another one.
	Version string `json:"version"`
	// Lifted means that the rule sends again.
	Lifted bool `json:"lifted,omitempty"`
	// Decided is the sequence of the record before which the errors were counted: a limit lifted since is not set again
	// by it. Messages is the number of messages with errors.
	Decided  uint64 `json:"decided,omitempty"`
	Errors   uint64 `json:"errors,omitempty"`
	Messages uint64 `json:"messages,omitempty"`
}

// Record returns the limit as a record; the journal sets Seq and ReceivedAt.
func (l Limit) Record() Record {
	payload, _ := json.Marshal(l) //nolint:errchkjson // texts and numbers
	return Record{Kind: KindLimit, Payload: payload}
}

// Limit parses the payload of a KindLimit record. The error wraps errMalformed.
func (r *Record) Limit() (l Limit, err error) {
	if err := json.Unmarshal(r.Payload, &l); err != nil {
		return Limit{}, fmt.Errorf("%w: limit: %w", errMalformed, err)
	}
	if l.Rule == "" || l.Version == "" {
		return Limit{}, fmt.Errorf("%w: limit: without a rule or its version", errMalformed)
	}
	return l, nil
}

package message

import (
	"encoding/json"
	"fmt"
)

// Limit is the payload of a KindLimit record: a rule has had too many errors and sends nothing from here on, or sends again
// because an operator wants it. People read it in dumps.
type Limit struct {
	Rule string `json:"rule"`
	// Version is of the rule as it was: another rule of that id is not meant.
	Version string `json:"version"`
	// Lifted says that the rule sends again.
	Lifted bool `json:"lifted,omitempty"`
	// Decided is the sequence of the record before which it was seen that the rule has too many errors: what was lifted since is not
	// held again by it. Errors of so many Messages are why.
	Decided  uint64 `json:"decided,omitempty"`
	Errors   uint64 `json:"errors,omitempty"`
	Messages uint64 `json:"messages,omitempty"`
}

// Record is the limit as a record, which gets its Seq and ReceivedAt from the journal.
func (l Limit) Record() Record {
	payload, _ := json.Marshal(l) //nolint:errchkjson // texts and numbers
	return Record{Kind: KindLimit, Payload: payload}
}

// Limit reads the payload of a KindLimit record. The error wraps ErrMalformed.
func (r *Record) Limit() (l Limit, err error) {
	if err := json.Unmarshal(r.Payload, &l); err != nil {
		return Limit{}, fmt.Errorf("%w: limit: %w", ErrMalformed, err)
	}
	if l.Rule == "" || l.Version == "" {
		return Limit{}, fmt.Errorf("%w: limit: without a rule or its version", ErrMalformed)
	}
	return l, nil
}

package message

import (
	"encoding/json"
	"fmt"
	"time"
)

// ClockStep is the payload of a KindClockStep record, in ms since the Unix epoch: what the wall clock would have shown
// when the record was written, and what it showed. A time of before, plus By, is that time by the clock that
// stepped: ages and intervals go on over the step as if it had not been.
type ClockStep struct{ From, To int64 }

// By is how far the clock stepped, in ms; below 0 back.
func (s ClockStep) By() int64 { return s.To - s.From }

// clockStepText is the stored form: people read it in dumps.
type clockStepText struct {
	From string `json:"from"`
	To   string `json:"to"`
}

const clockStepLayout = "2006-01-02T15:04:05.000Z07:00"

// Record is the step as a record, which gets its Seq and ReceivedAt from the journal.
func (s ClockStep) Record() Record {
	text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(clockStepLayout) }
	payload, _ := json.Marshal(clockStepText{text(s.From), text(s.To)}) //nolint:errchkjson // two strings
	return Record{Kind: KindClockStep, Payload: payload}
}

// ClockStep reads the payload of a KindClockStep record. The error wraps ErrMalformed.
func (r *Record) ClockStep() (ClockStep, error) {
	var text clockStepText
	if err := json.Unmarshal(r.Payload, &text); err != nil {
		return ClockStep{}, fmt.Errorf("%w: clock step: %w", ErrMalformed, err)
	}
	from, err := time.Parse(clockStepLayout, text.From)
	if err != nil {
		return ClockStep{}, fmt.Errorf("%w: clock step: %w", ErrMalformed, err)
	}
	to, err := time.Parse(clockStepLayout, text.To)
	if err != nil {
		return ClockStep{}, fmt.Errorf("%w: clock step: %w", ErrMalformed, err)
	}
	return ClockStep{From: from.UnixMilli(), To: to.UnixMilli()}, nil
}

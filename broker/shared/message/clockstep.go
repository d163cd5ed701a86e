package message

import (
	"encoding/json"
	"fmt"
	"time"
)

// ClockStep is the payload of a KindClockStep record, in ms since the Unix epoch: what the wall clock would have shown
// without the step, and what it showed. An earlier time plus By is that time by the clock after the step, so that ages
// and intervals continue over it.
type ClockStep struct{ From, To int64 }

// By returns the size of the step in ms; negative means back.
func (s ClockStep) By() int64 { return s.To - s.From }

// clockStepText is the stored form, readable in dumps.
type clockStepText struct {
	From string `json:"from"`
	To   string `json:"to"`
}

const clockStepLayout = "2006-01-02T15:04:05.000Z07:00"

// Record returns the step as a record; the journal sets Seq and ReceivedAt.
func (s ClockStep) Record() Record {
	text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(clockStepLayout) }
	payload, _ := json.Marshal(clockStepText{text(s.From), text(s.To)}) //nolint:errchkjson // two strings
	return Record{Kind: KindClockStep, Payload: payload}
}

// ClockStep parses the payload of a KindClockStep record. The error wraps errMalformed.
func (r *Record) ClockStep() (ClockStep, error) {
	var text clockStepText
	if err := json.Unmarshal(r.Payload, &text); err != nil {
		return ClockStep{}, fmt.Errorf("%w: clock step: %w", errMalformed, err)
	}
	from, err := time.Parse(clockStepLayout, text.From)
	if err != nil {
		return ClockStep{}, fmt.Errorf("%w: clock step: %w", errMalformed, err)
	}
	to, err := time.Parse(clockStepLayout, text.To)
	if err != nil {
		return ClockStep{}, fmt.Errorf("%w: clock step: %w", errMalformed, err)
	}
	return ClockStep{From: from.UnixMilli(), To: to.UnixMilli()}, nil
}

package state

import (
	"math"
	"slices"
)

// maxPauses is how many pauses are remembered; those before count no more.
const maxPauses = 64

// Pause is a time in which nobody listened to the vehicles: what they did not send then tells nothing. Its times are in ms, by
// the clock as it was before all its steps. From is the time of the last record before it.
type Pause struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Listening tells when the vehicles were listened to: but for the pauses always, until the last record. It is a matter of the
// journal alone, and stored with the VINs.
type Listening struct {
	Last   int64   `json:"last,omitempty"`
	Pauses []Pause `json:"pauses,omitempty"`
}

// Listening returns what SetListening takes.
func (s *State) Listening() Listening {
	return Listening{s.listening.Last, slices.Clone(s.listening.Pauses)}
}

// SetListening puts back what Listening gave.
func (s *State) SetListening(l Listening) { s.listening = l }

// Begin tells that the gateway has begun to listen, before Advance is told of the record that says so.
func (s *State) Begin(now int64) { s.pause(s.listening.Last, now-s.shift) }

func (s *State) pause(from, to int64) {
	l := &s.listening
	if l.Pauses = append(l.Pauses, Pause{from, to}); len(l.Pauses) > maxPauses {
		l.Pauses = slices.Delete(l.Pauses, 0, 1)
		l.Pauses[0].From = math.MinInt64
	}
}

// SilentUntil is when a time without a message is over that began at a time: it begins anew with every pause that it has not
// come to its end before. So the answer does not depend on when it is asked for.
func (s *State) SilentUntil(at, after int64) int64 {
	at -= s.shift
	for _, p := range s.listening.Pauses {
		switch {
		case p.To <= at:
		case at+after <= p.From:
			return at + after + s.shift
		default:
			at = p.To
		}
	}
	return at + after + s.shift
}

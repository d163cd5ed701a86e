package state

import (
	"math"
	"slices"
)

// maxPauses bounds the pauses kept. Older ones are merged into the first.
const maxPauses = 64

// Pause is a period in which the gateway did not listen to the vehicles, so that a missing message means nothing. Times
// are in ms, by the clock before all its steps. From is the time of the last record before the pause.
type Pause struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Listening says when the gateway listened to the vehicles: always until Last, except in the pauses. It follows from
// the journal alone and is stored with the VINs.
type Listening struct {
	Last   int64   `json:"last,omitempty"`
	Pauses []Pause `json:"pauses,omitempty"`
}

// Listening returns the value for SetListening.
func (s *State) Listening() Listening {
	return Listening{s.listening.Last, slices.Clone(s.listening.Pauses)}
}

// SetListening restores the result of Listening.
func (s *State) SetListening(l Listening) { s.listening = l }

// Begin ends a pause: the gateway has started to listen. Call it before Advance for the same record.
func (s *State) Begin(now int64) { s.pause(s.listening.Last, now-s.shift) }

func (s *State) pause(from, to int64) {
	l := &s.listening
	if l.Pauses = append(l.Pauses, Pause{from, to}); len(l.Pauses) > maxPauses {
		l.Pauses = slices.Delete(l.Pauses, 0, 1)
		l.Pauses[0].From = math.MinInt64
	}
}

// SilentUntil returns the end of a silence of length after (ms) that started at at. The silence starts again at the end
// of every pause that begins before it ends, so the answer does not depend on when it is requested.
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

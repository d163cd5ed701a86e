package command

import "slices"

// State is a command's state. Its values are on disk and in the API.
type State string

// The states.
const (
	// Queued means accepted and on disk, not yet handed to a connection.
	Queued State = "queued"
	// Sent means handed to the vehicle's connection; the vehicle may have it.
	Sent State = "sent"
	// Delivered means that the vehicle acknowledged it (PUBACK).
	Delivered State = "delivered"
	// Accepted means that the vehicle works on it.
	Accepted State = "accepted"
	// Succeeded, Failed and Rejected are final reports. Rejected also covers a command that the vehicle refused in its
	// PUBACK or that can never be sent to it (see Cause).
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Rejected  State = "rejected"
	// Expired means that the time to live ended before any of these three.
	Expired State = "expired"
	// Cancelled means cancelled before it was handed to a connection.
	Cancelled State = "cancelled"
	// Late means that the vehicle reported after the command had expired; Command.Outcome is its report.
	Late State = "late"
)

// States returns every state in the order of a command's life.
func States() []State {
	return []State{Queued, Sent, Delivered, Accepted, Succeeded, Failed, Rejected, Expired, Cancelled, Late}
}

// valid reports whether s is a state.
func (s State) valid() bool { return slices.Contains(States(), s) }

// Final reports whether the state is final. Expired may still become late.
func (s State) Final() bool {
	switch s {
	case Succeeded, Failed, Rejected, Expired, Cancelled, Late:
		return true
	}
	return false
}

// fromVehicle reports whether s is a status that a vehicle reports.
func (s State) fromVehicle() bool {
	return s == Accepted || s == Succeeded || s == Failed || s == Rejected
}

// next reports whether the transition is allowed. A step may be skipped, because the vehicle's result can overtake its
// PUBACK, but none is taken back. The state does not tell whether a queued command was handed to a connection: see
// batch.report and batch.cancel.
func next(from, to State) bool {
	switch to {
	case Sent:
		return from == Queued
	case Delivered:
		return from == Queued || from == Sent
	case Accepted:
		return from == Queued || from == Sent || from == Delivered
	case Succeeded, Failed, Rejected, Expired:
		return from == Queued || from == Sent || from == Delivered || from == Accepted
	case Cancelled:
		return from == Queued
	case Late:
		return from == Expired || from == Late
	}
	return false
}

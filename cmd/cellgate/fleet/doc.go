// Package fleet simulates a fleet of electric vehicles against any MQTT gateway that speaks cellgate's
// topics.
//
// Each vehicle drives a standard drive cycle along a real road: speed, odometer, position, energy, state
// of charge and temperatures follow from one another (see Model). It publishes telemetry and occasional
// alarms at QoS 0 or 1, answers commands, follows redirects, refreshes its token, reconnects with
// jittered back-off and resends with DUP what was not acknowledged.
//
// The MQTT client is its own and speaks only what a vehicle needs, because the generator shares the
// machine with what it measures: one goroutine and one small buffer per connection, one write for all
// messages that a window admits, no timer per vehicle.
//
// It serves `cellgate fleet`, the fleet inside `cellgate dev`, the crash tests (which audit the ledger of
// acknowledged messages) and the benchmarks.
package fleet

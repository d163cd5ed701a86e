// Package model searches all short histories of several gateways, one vehicle and a failing Redis for one that breaks a
// promise of broker/cell. Nothing is random: two runs visit the same states in the same order.
//
// The state of a history (state) is small and comparable. steps lists everything that can happen next: a request
// arrives at a server that believes it is the primary, a replica copies, a gateway crashes between any two of its
// steps. Search is breadth first, so the first counterexample is a shortest one. States that differ only by a
// permutation of equal gateways or commands count as one.
//
// The effect of a script on Redis is a function of this package (script.apply). Replay runs every transition of a
// search against the real script, through the client of broker/cell.
//
// The promises:
//
// - no command is reported as cancelled, or as expired without having been sent, and executed; - a command has one
// final state; - no accepted command is forgotten while its gateway's disk or Redis survives; - an end that was
// decided is published while the disks survive; - at rest the owner is the gateway that has the connection, and its epoch
// is later than every earlier one; - a connection's epoch is never followed by an earlier one; - no connection is ended
// for an older one.
//
// The first, second and last two are checked in each state. The others hold at rest: from each state the faults end, all
// remaining work is done (settle), and the data in Redis is compared with what was reported.
//
// A second, smaller model (handover) does the same for a QoS 2 packet identifier of a vehicle that moves between gateways;
// broker/session plays its histories. A third (travel) is of what the rules remember of such a vehicle.
package model

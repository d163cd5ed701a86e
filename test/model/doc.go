// Package model searches all short histories of several gateways, one vehicle and a Redis that fails, for one in which a
// promise of broker/cell is broken. Nothing is random: two runs visit the same states in the same order.
//
// The state of a history (state) is small and comparable. steps lists everything that may happen next: a request lands at a
// server that takes itself for the primary, a replica copies, a gateway crashes between any two of its steps. Search walks
// breadth first, so that the first counterexample is a shortest one. Two states that differ in nothing but which of two
// like gateways or commands is which count as one.
//
// What a script does to Redis is a function of this package (script.apply). Replay runs every transition that a search met
// against the real script, through the client of broker/cell.
//
// The promises:
//
//   - no command is told cancelled, or expired without having been sent, and executed;
//   - a command has one final state;
//   - nothing accepted is forgotten while its gateway's disk or Redis lives;
//   - at rest the owner is the gateway that has the connection, and its epoch is later than every one before;
//   - no connection is ended for one that is older.
//
// The first, second and last are checked in each state. The others are about rest: from each state the faults end, all
// that is left is done (settle), and what is then in Redis is compared with what was told.
package model

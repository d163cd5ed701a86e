// Package trace shows what happens to single messages, step by step: received, journaled, each rule with its reason,
// each target's outcome, the acknowledgement.
//
// Handlers of messages check On, one atomic load, and report steps only while there is a tracer. Reporting never
// blocks: a tracer has a bounded buffer, a bounded number of messages, and a rate. What exceeds these is dropped and
// counted, and the count is reported.
package trace

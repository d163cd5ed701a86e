// Package trace shows what happens to single messages, step by step, to those who look on: received, journaled, each rule and
// its reason, each target's outcome, the acknowledgement.
//
// Who handles messages asks On, one atomic load, and tells a step only when somebody looks on. Telling never blocks: a tracer
// has a bounded buffer, a bounded number of messages whose steps it follows, and a rate; what is beyond is counted, and the
// count is told.
package trace

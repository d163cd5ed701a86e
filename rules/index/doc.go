// Package index finds, among many rules on one topic, those whose conditions a message may fulfil, without evaluating the
// others.
//
// A rule is found by one clause of its condition (expr.Condition): a text, a list, a range or the presence of a field.
// Rules that share such a clause lie in one bucket; a large bucket is divided further by what else its rules ask for. What is
// found is checked against the other clauses; the rest of a condition, if there is any, is for the virtual machine.
//
// A rule is passed over only when its evaluation would give false. A message with a field of a kind that a condition does
// not expect, or one that cannot be decoded, may make it an error: then the rule is found whatever its clauses say, and
// evaluated. So what comes of a message is what evaluating every rule would give, in the same order.
package index

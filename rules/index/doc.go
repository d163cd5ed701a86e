// Package index finds, among many rules on one topic, those whose conditions a message may meet, without evaluating the
// others.
//
// A rule is found by one clause of its condition (expr.Condition): a text, a list, a range or the presence of a field.
// Rules that share such a clause are in one bucket; a large bucket is divided further by other clauses of its rules.
// The rules found are checked against their other clauses. The rest of a condition is evaluated by the virtual machine.
//
// A rule is skipped only if its evaluation would give false. If a message has a field of a kind that a condition does
// not expect, or cannot be decoded, evaluation may give an error: then the rule is evaluated whatever its clauses say.
// The decisions about a message are therefore the same, in the same order, as if every rule had been evaluated.
package index

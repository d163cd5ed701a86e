package rules

import (
	"slices"
	"strconv"
)

// DefaultErrorTopic is where evaluation errors go when a rule has no on_error.
const DefaultErrorTopic = "vehicle.rule-errors"

// Options of Compile.
type Options struct {
	// Cell is the cell's id: `cell` in expressions and ${cell} in templates.
	Cell string
	// ErrorTopic is the Kafka topic of evaluation errors of rules without on_error; DefaultErrorTopic when
	// empty.
	ErrorTopic string
	// Stored says that the source was in force before: what a later version of this package asks of new sources does
	// not take it out of force (CodeOpenClass).
	Stored bool
}

// Set is a compiled rule set: immutable, safe for concurrent use.
type Set struct {
	hash     string
	cell     string
	source   *Source
	errTopic string // the set's own
	rules    []*rule
	index    topicIndex
	symbols  []symbol
	operKeys map[uint64]struct{} // keys of all operators, for State
	// unfinished are the findings of files without a list of rules. A set that was stored may have such files.
	unfinished Diagnostics
}

// rule is one compiled rule.
type rule struct {
	def       *ruleDef
	info      RuleInfo
	index     uint16
	names     *names
	schema    *schemaDef
	when      *expression
	operators []*operator
	transform *value
	targets   []*target
	errTopic  string
	usesOper  bool // some target or the transform refers to operator.x
}

// operator is a compiled operator.
type operator struct {
	*Operator
	Runner
	args *Args
	key  uint64 // of its memory: a hash of rule id, name and definition
}

// target is one compiled element of `to`.
type target struct {
	*Target
	Sender
	args *Args
	text string // the index, for the header
	// decodes says that making the message takes a decoded payload.
	decodes bool
}

// RuleInfo describes a rule of a running set.
type RuleInfo struct {
	ID          string       `json:"id"`
	Owner       string       `json:"owner,omitempty"`
	Description string       `json:"description,omitempty"`
	File        string       `json:"file"`
	Line        int          `json:"line"`
	From        []string     `json:"from"`
	When        string       `json:"when,omitempty"`
	Operators   []string     `json:"operators,omitempty"`
	Mode        string       `json:"mode"`
	Targets     []TargetInfo `json:"to"`
	ErrorTopic  string       `json:"error_topic"`
}

// TargetInfo describes a target: Name is its topic or key as written.
type TargetInfo struct {
	Sink SinkKind `json:"sink"`
	Name string   `json:"name"`
	Lane string   `json:"lane,omitempty"`
}

// Hash is the hash of the source that the set was compiled from.
func (s *Set) Hash() string { return s.hash }

// ErrorTopic is the Kafka topic of messages that cannot be decoded, and of all errors of rules without on_error.
func (s *Set) ErrorTopic() string { return s.errTopic }

// Source returns what the set was compiled from.
func (s *Set) Source() *Source { return s.source }

// Rules describes the rules; a Decision's Rule is an index into it.
func (s *Set) Rules() []RuleInfo {
	out := make([]RuleInfo, len(s.rules))
	for i, r := range s.rules {
		out[i] = r.info
	}
	return out
}

// SendingTo returns the ids of the rules that send to a sink; those that are disabled or in shadow send nothing.
func (s *Set) SendingTo(kind SinkKind) []string {
	var ids []string
	for _, r := range s.rules {
		if m := r.def.mode; m.disabled || m.shadow {
			continue
		}
		if slices.ContainsFunc(r.targets, func(t *target) bool { return t.Kind == kind }) {
			ids = append(ids, r.info.ID)
		}
	}
	return ids
}

// Match appends the rules whose filters match a topic, each once, ascending.
func (s *Set) Match(topic string, out []uint16) []uint16 { return s.index.match(topic, out) }

// newScope makes a scope for the set's expressions.
func (s *Set) newScope() *scope { return newScope(s.cell, s.symbols) }

// RuleID returns the id of the rule of a decision, "" when there is none of that index.
func (s *Set) RuleID(rule uint16) string {
	if int(rule) >= len(s.rules) {
		return ""
	}
	return s.rules[rule].info.ID
}

func (m ruleMode) String() string {
	switch {
	case m.disabled:
		return "disabled"
	case m.shadow:
		return "shadow"
	case m.canary < wholeFleet:
		return "canary " + strconv.FormatFloat(float64(m.canary)/100, 'f', -1, 64) + "%"
	}
	return "enabled"
}

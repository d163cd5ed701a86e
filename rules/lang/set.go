package lang

import (
	"slices"
	"strconv"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/index"
	"cellgate/rules/op"
)

// HashKeys are the keys of the function hash.
type HashKeys = expr.HashKeys

// HashKey is a key of the function hash.
type HashKey = expr.HashKey

// Options of Compile.
type Options struct {
	// Cell is the cell's id: `cell` in expressions and ${cell} in templates.
	Cell string
	// ErrorTopic is the Kafka topic of evaluation errors of rules without on_error.
	ErrorTopic string
	// Targets are the targets that rules may use.
	Targets op.Targets
	// Webhooks are the names of the gateway's endpoints; nil if unknown: then every name is accepted.
	Webhooks []string
	// HashKeys are the gateway's keys of the function hash; nil without a gateway: then a test key is used.
	HashKeys *HashKeys `zero:"no gateway is known"`
	// Stored means that the source was already in force: requirements that a later version adds for new sources
	// (CodeOpenClass) do not apply.
	Stored bool
}

// Set is a compiled rule set: immutable, safe for concurrent use.
type Set struct {
	hash     string
	cell     string
	source   *Source
	ErrTopic string // the set's default
	targets  op.Targets
	Compiled []*Rule
	topics   topicIndex
	index    *index.Index
	symbols  []expr.Symbol
	OperKeys map[uint64]struct{} // keys of all operators, for State
	WakeKeys map[uint64]struct{} // of operators that run without a message
	// Unfinished are the findings for files without a list of rules. A stored set may have such files.
	Unfinished doc.Diagnostics
	// Warnings are the findings that do not prevent applying the set.
	Warnings doc.Diagnostics
}

// Rule is one compiled rule.
type Rule struct {
	Def       *ruleDef
	Info      RuleInfo
	Index     uint16
	Names     *expr.Names
	Schema    *expr.Schema
	When      *expr.Expression
	Each      *expr.Expression // the list whose elements are handled like messages; nil if the rule handles the message
	ItemWhen  *expr.Expression // the condition of a rule with Each, which has no When
	Event     bool             // operators use the vehicle's clock
	Having    *expr.Expression // condition after the operators
	Operators []*Operator
	Transform *expr.Value
	Targets   []*Target
	ErrTopic  string // "": errors are only counted
	ErrEmpty  bool   // dead letters have no payload
	UsesGiven bool   // a target or the transform refers to operator.x
	Limit     *Limit // of the rule's errors, nil if there is none
	Version   string // of a rule with a Limit: a hold applies only to the version whose errors caused it
}

// Operator is a compiled operator.
type Operator struct {
	*op.Operator
	op.Runner
	Args *op.Args
	Key  uint64 // of its memory: a hash of rule id, name and definition
}

// Target is one compiled element of `to`.
type Target struct {
	*op.Target
	op.Sender
	Args *op.Args
	Text string // index in `to`, for the header
	// Decodes means that rendering needs the decoded payload.
	Decodes bool
}

// RuleInfo describes a rule of a set in force.
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
	Limit       string       `json:"limit,omitempty"`
}

// TargetInfo describes a target: Name is its topic or key as written.
type TargetInfo struct {
	Sink op.SinkKind `json:"sink"`
	Name string      `json:"name"`
	Lane string      `json:"lane,omitempty"`
}

// Hash returns the hash of the set's source.
func (s *Set) Hash() string { return s.hash }

// View returns a message as tests and explanations show it.
func (s *Set) View(r *op.Rendered) map[string]any { return s.targets.Of(r.Sink).View(r) }

// Source returns the source of the set.
func (s *Set) Source() *Source { return s.source }

// Rules describes the rules. A Decision's Rule is an index into it.
func (s *Set) Rules() []RuleInfo {
	out := make([]RuleInfo, len(s.Compiled))
	for i, r := range s.Compiled {
		out[i] = r.Info
	}
	return out
}

// SendingTo returns the ids of the rules that send to a sink, without those that are disabled or in shadow.
func (s *Set) SendingTo(kind op.SinkKind) []string {
	var ids []string
	for _, r := range s.Compiled {
		if m := r.Def.Mode; m.Disabled || m.Shadow {
			continue
		}
		if slices.ContainsFunc(r.Targets, func(t *Target) bool { return t.Kind == kind }) {
			ids = append(ids, r.Info.ID)
		}
	}
	return ids
}

// Match returns the rules whose filters match a topic, each once, ascending.
func (s *Set) Match(topic string) []uint16 { return s.topics.rules(topic, nil) }

// Lists appends the lists of rules whose filters match a topic, as numbers for Index.
func (s *Set) Lists(topic string, out []int) []int { return s.topics.match(topic, out) }

// Index returns the index that finds the rules whose conditions a message may meet.
func (s *Set) Index() *index.Index { return s.index }

// NewScope returns a scope for the set's expressions.
func (s *Set) NewScope() *expr.Scope { return expr.NewScope(s.cell, s.symbols) }

// RuleID returns the id of a decision's rule, "" if the index is out of range.
func (s *Set) RuleID(rule uint16) string {
	if int(rule) >= len(s.Compiled) {
		return ""
	}
	return s.Compiled[rule].Info.ID
}

func (m ruleMode) String() string {
	switch {
	case m.Disabled:
		return "disabled"
	case m.Shadow:
		return "shadow"
	case m.Canary < WholeFleet:
		text := "canary " + strconv.FormatFloat(float64(m.Canary)/100, 'f', -1, 64) + "%"
		if m.Salt != "" {
			text += ", salt " + m.Salt
		}
		if m.Control {
			text += ", arm control"
		}
		return text
	}
	return "enabled"
}

// TakesPart reports whether the rule applies to a vehicle. The choice is stable: it depends on the hash of salt and
// VIN. The control arm uses the opposite end of the hash range, so it shares no vehicle with the canary.
func (m *ruleMode) TakesPart(vin string) bool {
	if m.Canary >= WholeFleet {
		return true
	}
	place := uint64(0)
	if m.Salt == "" {
		place = message.Hash(vin) % WholeFleet
	} else {
		place = message.Hash(m.Salt+"/"+vin) % WholeFleet
	}
	if m.Control {
		return place >= WholeFleet-m.Canary
	}
	return place < m.Canary
}

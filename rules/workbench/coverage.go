package workbench

import (
	"fmt"
	"slices"
	"strings"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
)

// coverage says which parts of the rules the tests cover. A part counts if a step with an expectation exercises it in a
// rule that the test is about.
type coverage struct {
	Rules    Share `json:"rules"`
	Branches Share `json:"branches"` // both outcomes of each condition and operator
	Targets  Share `json:"targets"`
	// Missing describes the parts that no test covers.
	Missing []string `json:"missing,omitempty"`
}

// Share is a count and its total.
type Share struct {
	Covered int `json:"covered"`
	Of      int `json:"of"`
}

func (s Share) String() string { return fmt.Sprintf("%d of %d", s.Covered, s.Of) }

// covering has the covered branches, by rule id.
type covering map[string]map[string]bool

// Branches of a rule. Those of its operators start with the operator's name.
const (
	branchTrue    = "when true"
	branchFalse   = "when false"
	branchPassed  = " lets through"
	branchHeld    = " holds back"
	targetCovered = "to["
)

func (c covering) note(rule, what string) {
	if c[rule] == nil {
		c[rule] = map[string]bool{}
	}
	c[rule][what] = true
}

// observer records what one test covers.
type observer struct {
	covering
	set   *lang.Set
	rules []string // the rules that count; all if empty
	scope *expr.Scope
	ran   []*lang.Operator // in the current step
}

func (c covering) observer(set *lang.Set, rules []string) *observer {
	return &observer{covering: c, set: set, rules: rules, scope: set.NewScope()}
}

func (o *observer) begin(w *engine.Worker, rec *message.Record) {
	o.ran = o.ran[:0]
	w.Begin(rec, func(op *lang.Operator) { o.ran = append(o.ran, op) })
}

// end records what a step has covered; looked means that rules have evaluated a message.
func (o *observer) end(rec *message.Record, looked bool, ds []engine.Decision) {
	matched := map[uint16]bool{}
	for _, d := range ds {
		if d.Err != "" || int(d.Rule) >= len(o.set.Compiled) || !o.counts(d.Rule) {
			continue
		}
		matched[d.Rule] = true
		id := o.set.RuleID(d.Rule)
		if !d.Shadow {
			o.note(id, fmt.Sprint(targetCovered, d.Target, "]"))
		}
		for _, op := range o.set.Compiled[d.Rule].Operators {
			o.note(id, op.Name+branchPassed)
		}
	}
	if !looked {
		return
	}
	o.scope.Begin(rec)
	for _, i := range o.set.Match(rec.Topic) {
		if o.counts(i) {
			o.rule(o.set.Compiled[i], matched[i])
		}
	}
}

// counts reports whether the test is about a rule.
func (o *observer) counts(rule uint16) bool {
	return len(o.rules) == 0 || slices.Contains(o.rules, o.set.RuleID(rule))
}

// rule records how far a message got in a rule.
func (o *observer) rule(r *lang.Rule, matched bool) {
	id := r.Info.ID
	o.scope.BeginRule()
	if r.When != nil {
		ok, err := o.scope.Test(r.When)
		switch {
		case err != nil:
			return
		case !ok:
			o.note(id, branchFalse)
			return
		}
		o.note(id, branchTrue)
	}
	var last *lang.Operator
	for _, op := range o.ran {
		if slices.Contains(r.Operators, op) {
			if last != nil && last != op {
				o.note(id, last.Name+branchPassed)
			}
			last = op
		}
	}
	if last != nil && !matched {
		o.note(id, last.Name+branchHeld)
	}
}

func (c covering) of(set *lang.Set) *coverage {
	out := &coverage{}
	for _, r := range set.Compiled {
		if r.Def.Mode.Disabled {
			continue
		}
		id := r.Info.ID
		var missing []string
		look := func(s *Share, what string) {
			s.Of++
			if c[id][what] {
				s.Covered++
				return
			}
			missing = append(missing, what)
		}
		if r.When != nil {
			look(&out.Branches, branchTrue)
			look(&out.Branches, branchFalse)
		}
		for _, op := range r.Operators {
			look(&out.Branches, op.Name+branchPassed)
			look(&out.Branches, op.Name+branchHeld)
		}
		if !r.Def.Mode.Shadow {
			for i := range r.Targets {
				look(&out.Targets, fmt.Sprint(targetCovered, i, "]"))
			}
		}
		if out.Rules.Of++; c[id] != nil {
			out.Rules.Covered++
		} else {
			missing = []string{"no test reaches it"}
		}
		if len(missing) > 0 {
			out.Missing = append(out.Missing, id+": "+strings.Join(missing, ", "))
		}
	}
	return out
}

package engine

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"cellgate/broker/shared/message"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// Errors of Render. Any error except errDecision is a fault of the record or the rule: send the record to the rule's
// error topic (RenderDeadLetter). Rendering again gives the same error.
var (
	// errDecision means that the decision is a shadow decision or cannot be one of this set.
	errDecision = errors.New("not a decision of this rule set")
	// ErrNoDeadLetter is returned by RenderDeadLetter for a rule with on_error: none.
	ErrNoDeadLetter = errors.New("the rule sends no errors")
)

// Renderer renders the messages of a set's decisions. It is safe for concurrent use.
type Renderer struct {
	set    *lang.Set
	scopes sync.Pool // *expr.Scope
}

// NewRenderer returns a renderer for a set.
func NewRenderer(set *lang.Set) *Renderer {
	r := &Renderer{set: set}
	r.scopes.New = func() any { return set.NewScope() }
	return r
}

// Render renders the message of a decision. The output depends only on the decision and the record: the same bytes in
// any process, at any time. Worker.Render is cheaper right after its Eval.
func (x *Renderer) Render(d Decision, rec *message.Record, r *op.Rendered) error {
	sc := x.scopes.Get().(*expr.Scope) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer x.scopes.Put(sc)
	sc.Begin(d.Record(rec))
	return x.render(sc, d, r)
}

// RenderDeadLetter renders the dead letter for a record that a target refused or that Render failed on. It goes to the
// rule's error topic and has the original payload and the headers error, rule and target. A payload that cannot be
// decoded is not a rule's fault: its dead letter goes to the set's topic, with the first rule that needs the payload in
// the header rule, all of them in rules, and their number in rules-failed.
func (x *Renderer) RenderDeadLetter(d Decision, reason string, rec *message.Record, r *op.Rendered) error {
	s := x.set
	if int(d.Rule) >= len(s.Compiled) {
		return fmt.Errorf("%w: rule %d of %d", errDecision, d.Rule, len(s.Compiled))
	}
	rule := s.Compiled[d.Rule]
	undecoded := d.Target == TargetUndecoded
	if rule.ErrTopic == "" && !undecoded {
		return fmt.Errorf("%w: %s", ErrNoDeadLetter, rule.Info.ID)
	}
	rec = d.Record(rec)
	r.Reset()
	r.Sink, r.DeadLetter, r.Reason = op.SinkKafka, true, reason
	r.Topic, r.Value = rule.ErrTopic, rec.Payload
	switch {
	case undecoded:
		r.Topic = s.ErrTopic
	case rule.ErrEmpty:
		r.Value = nil
	}
	r.Buf = append(r.Buf, rec.VIN()...)
	r.Key = r.Buf[:len(r.Buf):len(r.Buf)]
	target := "none"
	if int(d.Target) < len(rule.Targets) {
		target = rule.Targets[d.Target].Text
	}
	r.Header("rule", rule.Info.ID)
	r.Header("target", target)
	r.Header("error", reason)
	if undecoded && len(d.Undecoded) > 0 {
		r.Header("rules", ruleNames(s, d.Undecoded))
		r.Header("rules-failed", strconv.Itoa(len(d.Undecoded)))
	}
	if rec.Props.ContentType != "" && r.Value != nil {
		r.Header("content-type", rec.Props.ContentType)
	}
	return nil
}

// maxRuleNames bounds the header with rule ids, in bytes, so that a small message does not become a large one.
const maxRuleNames = 1024

// ruleNames joins the ids of as many rules as fit into maxRuleNames.
func ruleNames(s *lang.Set, rules []uint16) string {
	var b strings.Builder
	for _, r := range rules {
		id := s.RuleID(r)
		if b.Len()+1+len(id) > maxRuleNames {
			break
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(id)
	}
	return b.String()
}

// render renders the message of a decision for the record in the scope.
func (x *Renderer) render(sc *expr.Scope, d Decision, r *op.Rendered) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", expr.ErrRender, p)
		}
	}()
	s := x.set
	switch {
	case d.Shadow || int(d.Rule) >= len(s.Compiled):
		return fmt.Errorf("%w: rule %d of %d, shadow %t", errDecision, d.Rule, len(s.Compiled), d.Shadow)
	case d.Target == TargetError, d.Target == TargetUndecoded:
		return x.RenderDeadLetter(d, d.Err, sc.Record, r)
	case int(d.Target) >= len(s.Compiled[d.Rule].Targets):
		return fmt.Errorf("%w: target %d of rule %s", errDecision, d.Target, s.Compiled[d.Rule].Info.ID)
	}
	rule := s.Compiled[d.Rule]
	given, err := expr.DecodeGiven(d.Values)
	if err != nil {
		return fmt.Errorf("%w: its values: %w", errDecision, err)
	}
	sc.BeginMessage(given, d.Item > 0)
	t := rule.Targets[d.Target]
	r.Reset()
	r.Sink = t.Kind
	if d.Item > 0 {
		if rule.Each == nil {
			return fmt.Errorf("%w: an item of rule %s", errDecision, rule.Info.ID)
		}
		if err := sc.Item(rule.Each, int(d.Item)-1); err != nil {
			return err
		}
		r.Header("item", strconv.Itoa(int(d.Item)-1))
	}
	r.Header("rule", rule.Info.ID)
	r.Header("target", t.Text)
	err = t.Render(sc, r)
	if err == nil {
		err = expr.CheckSize(r.Buf)
	}
	return err
}

// Sink returns the sink of a decision without rendering it; "" for a shadow decision or one that is not of this set.
func (x *Renderer) Sink(d Decision) op.SinkKind {
	s := x.set
	switch {
	case d.Shadow || int(d.Rule) >= len(s.Compiled):
		return ""
	case d.Target == TargetError, d.Target == TargetUndecoded:
		return op.SinkKafka
	case int(d.Target) >= len(s.Compiled[d.Rule].Targets):
		return ""
	}
	return s.Compiled[d.Rule].Targets[d.Target].Kind
}

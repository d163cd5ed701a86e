package rules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"cellgate/broker/message"
)

// Errors of Render. An error other than ErrDecision is a fault of the record or the rule: the record
// belongs to the rule's error topic (RenderDeadLetter), and rendering again gives the same error.
var (
	// ErrDecision is a decision that the set cannot have made, or a shadow decision.
	ErrDecision = errors.New("not a decision of this rule set")
)

// Renderer makes the messages of a set's decisions. It is safe for concurrent use.
type Renderer struct {
	set    *Set
	scopes sync.Pool // *scope
}

// NewRenderer makes a renderer.
func NewRenderer(set *Set) *Renderer {
	r := &Renderer{set: set}
	r.scopes.New = func() any { return set.newScope() }
	return r
}

// Render makes the message of a decision of the set. It depends on the decision and the record alone:
// the same give the same bytes, in any process, at any time. A Worker's Render is cheaper right after its Eval.
func (x *Renderer) Render(d Decision, rec *message.Record, r *Rendered) error {
	sc := x.scopes.Get().(*scope) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer x.scopes.Put(sc)
	sc.begin(rec)
	return x.render(sc, d, r)
}

// RenderDeadLetter makes the message that takes a record to the error topic of a decision's rule because
// a target refused it, or because Render failed: the original payload with the headers error, rule and
// target. A payload that cannot be decoded is no fault of a rule: it goes to the set's topic, with the first of the rules that
// need it in the header rule, all of them in rules, and their number in rules-failed.
func (x *Renderer) RenderDeadLetter(d Decision, reason string, rec *message.Record, r *Rendered) error {
	s := x.set
	if int(d.Rule) >= len(s.rules) {
		return fmt.Errorf("%w: rule %d of %d", ErrDecision, d.Rule, len(s.rules))
	}
	rule := s.rules[d.Rule]
	r.reset()
	r.Sink, r.DeadLetter, r.Reason = SinkKafka, true, reason
	r.Topic, r.Value = rule.errTopic, rec.Payload
	if d.Target == TargetUndecoded {
		r.Topic = s.errTopic
	}
	r.buf = append(r.buf, rec.VIN()...)
	r.Key = r.buf[:len(r.buf):len(r.buf)]
	target := "none"
	if int(d.Target) < len(rule.targets) {
		target = rule.targets[d.Target].text
	}
	r.header("rule", rule.info.ID)
	r.header("target", target)
	r.header("error", reason)
	if d.Target == TargetUndecoded && len(d.Undecoded) > 0 {
		r.header("rules", ruleNames(s, d.Undecoded))
		r.header("rules-failed", strconv.Itoa(len(d.Undecoded)))
	}
	if rec.Props.ContentType != "" {
		r.header("content-type", rec.Props.ContentType)
	}
	return nil
}

// maxRuleNames bounds the names of rules in a header, in bytes, so that a message of a few bytes does not become a large one.
const maxRuleNames = 1024

// ruleNames joins the ids of rules, as many as fit.
func ruleNames(s *Set, rules []uint16) string {
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

// render makes the message of a decision for the record that the scope holds.
func (x *Renderer) render(sc *scope, d Decision, r *Rendered) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrRender, p)
		}
	}()
	s := x.set
	switch {
	case d.Shadow || int(d.Rule) >= len(s.rules):
		return fmt.Errorf("%w: rule %d of %d, shadow %t", ErrDecision, d.Rule, len(s.rules), d.Shadow)
	case d.Target == TargetError, d.Target == TargetUndecoded:
		return x.RenderDeadLetter(d, d.Err, sc.rec, r)
	case int(d.Target) >= len(s.rules[d.Rule].targets):
		return fmt.Errorf("%w: target %d of rule %s", ErrDecision, d.Target, s.rules[d.Rule].info.ID)
	}
	rule := s.rules[d.Rule]
	if sc.opers, err = decodeValues(d.Values); err != nil {
		return fmt.Errorf("%w: its values: %w", ErrDecision, err)
	}
	t := rule.targets[d.Target]
	r.reset()
	r.Sink = t.Kind
	r.header("rule", rule.info.ID)
	r.header("target", t.text)
	err = t.Render(sc, r)
	if err == nil {
		err = checkSize(r.buf)
	}
	return err
}

// Sink says which sink a decision belongs to, without rendering it. A shadow decision has none: "".
func (x *Renderer) Sink(d Decision) SinkKind {
	s := x.set
	switch {
	case d.Shadow || int(d.Rule) >= len(s.rules):
		return ""
	case d.Target == TargetError, d.Target == TargetUndecoded:
		return SinkKafka
	case int(d.Target) >= len(s.rules[d.Rule].targets):
		return ""
	}
	return s.rules[d.Rule].targets[d.Target].Kind
}

package lang

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/op"
)

// RuleKeys returns the keys of a rule in the order of `rules fmt`.
func RuleKeys() []string {
	return slices.Concat([]string{"id", "owner", "description", "from", "each", "when", "time"}, op.OperatorNames(), []string{"having", "transform", "to", "on_error", "mode", "limits"})
}

// readRule reads one rule; nil if it has no usable id.
func readRule(d *doc.Document, n ast.Node, targets op.Targets) *ruleDef {
	d.Rule = idOf(n)
	o, ok := d.Object(n, "a rule", RuleKeys()...)
	if !ok {
		return nil
	}
	r := &ruleDef{doc: d, node: n, Mode: ruleMode{Canary: WholeFleet}}
	if !r.readID(o) {
		return nil
	}
	if s, ok := o.Text("owner"); ok {
		r.owner = s.Value
	}
	if s, ok := o.Text("description"); ok {
		r.description = strings.TrimSpace(s.Value)
	}
	r.readFrom(o)
	r.When, r.each, r.Having = o.Expr("when"), o.Expr("each"), o.Expr("having")
	r.readOperators(o)
	r.readTime(o)
	if n, ok := o.Values["transform"]; ok {
		r.Transform = expr.ReadTransform(d, n)
	}
	r.readTargets(o, targets)
	if n, ok := o.Values["on_error"]; ok {
		r.readOnError(n)
	}
	if n, ok := o.Values["mode"]; ok {
		r.readMode(n)
	}
	if n, ok := o.Values["limits"]; ok {
		r.readLimits(n)
	}
	return r
}

// readOperators reads the operators in the order in which they are applied.
func (r *ruleDef) readOperators(o *doc.Object) {
	for _, op := range op.Operators() {
		if n, ok := o.Values[op.Name]; ok {
			if args := op.Read(o.Doc, n); args != nil {
				r.operators = append(r.operators, operatorDef{op, args})
			}
		}
	}
}

// readTime reads the key time: the clock that the operators use.
func (r *ruleDef) readTime(o *doc.Object) {
	s, ok := o.Text("time")
	switch {
	case !ok || s.Value == "received":
	case s.Value == "event":
		r.event = &s
	default:
		o.Doc.Fail(s.Line, s.Col, doc.CodeWrongType, "write event (when the vehicle measured) or received, which is the default", "%q is not a clock", s.Value)
	}
}

// idOf returns the id of a rule that may have other errors, for their messages.
func idOf(n ast.Node) string {
	if m, ok := n.(*ast.MappingNode); ok {
		for _, p := range m.Values {
			if v, ok := p.Value.(*ast.StringNode); ok && p.Key.String() == "id" {
				return v.Value
			}
		}
	}
	return "file"
}

func (r *ruleDef) readID(o *doc.Object) bool {
	if !o.Has("id") {
		o.Missing("id", "give the rule a short name that no other rule has")
		return false
	}
	s, ok := o.Text("id")
	if !ok {
		return false
	}
	if !doc.ValidID(s.Value) {
		o.Doc.Fail(s.Line, s.Col, doc.CodeBadName, `use letters and digits, inside it also "-", "_" and "."; at most 64`, "%q is not a rule id", s.Value)
		return false
	}
	r.id = s
	return true
}

func (r *ruleDef) readFrom(o *doc.Object) {
	n, ok := o.Values["from"]
	if !ok {
		o.Missing("from", `for example from: ["v1/+/up/telemetry"]`)
		return
	}
	nodes := []ast.Node{n}
	if _, isList := n.(*ast.SequenceNode); isList {
		nodes, _ = o.Doc.List(n, `"from"`)
	}
	if len(nodes) == 0 || len(nodes) > MaxFilters {
		o.Doc.FailAt(n, doc.CodeBadFilter, `for example ["v1/+/up/telemetry"]`, "a rule has from 1 to %d topic filters", MaxFilters)
	}
	for _, n := range nodes {
		s, ok := o.Doc.Scalar(n, "a topic filter")
		if !ok {
			continue
		}
		if err := message.ValidFilter(s.Value); err != nil {
			o.Doc.Fail(s.Line, s.Col, doc.CodeBadFilter, "filters are MQTT filters, for example v1/+/up/telemetry or v1/+/up/#", "%q: %v", s.Value, err)
			continue
		}
		if _, _, shared := message.SplitShare(s.Value); shared {
			o.Doc.Fail(s.Line, s.Col, doc.CodeBadFilter, "remove $share/{group}/", "%q: rules see every message, shares have no meaning here", s.Value)
			continue
		}
		if name := wordMeantAsWildcard(s.Value); name != "" {
			o.Doc.Fail(s.Line, s.Col, doc.CodeBadFilter, "write + for one level of any name, # at the end for all that follow",
				"%q: %s has no meaning in a topic filter, no vehicle's topic has it", s.Value, name)
			continue
		}
		if !vehiclePublishes(s.Value) {
			o.Doc.Warn(s.Line, s.Col, doc.CodeDeadFilter, "vehicles publish to v1/{vin}/up/{class} and v1/{vin}/res/{id}/{status}: write v1/+/up/telemetry",
				"no vehicle publishes to a topic that %q matches", s.Value)
		}
		r.from = append(r.from, s)
	}
}

// vehiclePublishes reports whether a filter matches a topic that vehicles publish to and rules see.
func vehiclePublishes(filter string) bool {
	levels := strings.Split(filter, "/")
	for _, topic := range [][]string{{"v1", "+", "up", "+"}, {"v1", "+", "res", "+", "+"}} {
		open := topic[2] == "up" // a class may have several levels
		for i, level := range levels {
			if level == "#" {
				return true
			}
			if i >= len(topic) {
				if !open {
					break
				}
			} else if level != "+" && topic[i] != "+" && level != topic[i] {
				break
			}
			if i == len(levels)-1 && i >= len(topic)-1 {
				return true
			}
		}
	}
	return false
}

// wordMeantAsWildcard returns the first level of a filter that is a wildcard or placeholder in other systems but a
// plain word here: *, {vin}, ${vin}. It returns "" if there is none.
func wordMeantAsWildcard(filter string) string {
	for level := range strings.SplitSeq(filter, "/") {
		if level == "*" || level == "**" || strings.HasSuffix(level, "}") && strings.HasPrefix(strings.TrimPrefix(level, "$"), "{") {
			return level
		}
	}
	return ""
}

// WholeFleet is 100 % in hundredths of a percent.
const WholeFleet = 10_000

func (r *ruleDef) readMode(n ast.Node) {
	const suggestion = "write enabled, disabled, shadow or {canary: 5%}"
	if _, isMap := n.(*ast.MappingNode); isMap {
		if o, ok := r.doc.Object(n, `"mode"`, "canary", "salt", "arm"); ok {
			r.readCanary(o, suggestion)
		}
		return
	}
	s, ok := r.doc.Scalar(n, `"mode"`)
	if !ok {
		return
	}
	switch s.Value {
	case "enabled":
	case "disabled":
		r.Mode.Disabled = true
	case "shadow":
		r.Mode.Shadow = true
	default:
		r.doc.Fail(s.Line, s.Col, doc.CodeBadMode, suggestion, "%q is not a mode", s.Value)
	}
}

// readCanary reads the share of vehicles for which a rule is evaluated.
func (r *ruleDef) readCanary(o *doc.Object, suggestion string) {
	s, ok := o.Text("canary")
	if !ok {
		if !o.Has("canary") {
			o.Missing("canary", suggestion)
		}
		return
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(s.Value, "%")), 64)
	if err != nil || !strings.HasSuffix(s.Value, "%") || !(v >= 0 && v <= 100) {
		r.doc.Fail(s.Line, s.Col, doc.CodeBadMode, "write a share of the vehicles: 0.5%, 5%, 50%", "%q is not a share from 0%% to 100%%", s.Value)
		return
	}
	r.Mode.Canary = uint64(v*100 + 0.5)
	if salt, ok := o.Text("salt"); ok {
		if r.Mode.Salt = salt.Value; !doc.ValidID(salt.Value) {
			r.doc.Fail(salt.Line, salt.Col, doc.CodeBadMode, "use a word for the experiment: exp7", "%q is not a salt", salt.Value)
		}
	}
	arm, ok := o.Text("arm")
	switch r.Mode.Control = arm.Value == "control"; {
	case !ok:
	case arm.Value != "canary" && arm.Value != "control":
		r.doc.Fail(arm.Line, arm.Col, doc.CodeBadMode, "write canary, or control for as many of the others", "%q is not an arm of an experiment", arm.Value)
	case r.Mode.Control && v > 50:
		r.doc.Fail(s.Line, s.Col, doc.CodeBadMode, "write 50% or less", "there are not as many vehicles besides %s for arm: control", s.Value)
	}
}

func (r *ruleDef) readTargets(o *doc.Object, targets op.Targets) {
	n, ok := o.Values["to"]
	if !ok {
		o.Missing("to", "for example to: [{kafka: {topic: vehicle.telemetry}}]")
		return
	}
	nodes := []ast.Node{n}
	if _, single := n.(*ast.MappingNode); !single {
		if nodes, ok = o.Doc.List(n, `"to"`); !ok {
			return
		}
	}
	if len(nodes) == 0 || len(nodes) > MaxTargets {
		o.Doc.FailAt(n, doc.CodeNoTarget, "", "a rule has from 1 to %d targets", MaxTargets)
	}
	for _, n := range nodes {
		if t, args := targets.Read(o.Doc, n); args != nil {
			r.to = append(r.to, targetDef{t, args})
		}
	}
}

func (r *ruleDef) readOnError(n ast.Node) {
	const suggestion = "for example on_error: {kafka: {topic: vehicle.rule-errors}}, or on_error: none"
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
	default:
		if s, ok := r.doc.Scalar(n, `"on_error"`); ok && s.Value != "none" {
			r.doc.Fail(s.Line, s.Col, doc.CodeWrongType, suggestion, "%q does not say what to do with messages that the rule cannot handle", s.Value)
		}
		r.onError.none = true
		return
	}
	o, ok := r.doc.Object(n, `"on_error"`, "kafka")
	if !ok {
		return
	}
	if !o.Has("kafka") {
		o.Missing("kafka", suggestion)
		return
	}
	k, ok := r.doc.Object(o.Values["kafka"], `"kafka"`, "topic", "payload")
	if !ok {
		return
	}
	if !k.Has("topic") {
		k.Missing("topic", op.TopicKey.Need)
	} else if s, ok := k.Text("topic"); ok {
		r.onError.topic = &s
	}
	if s, ok := k.Text("payload"); ok {
		if s.Value != "none" {
			r.doc.Fail(s.Line, s.Col, doc.CodeWrongType, "write none, or remove the key", "%q is not something that can be left out", s.Value)
		}
		r.onError.empty = true
	}
}

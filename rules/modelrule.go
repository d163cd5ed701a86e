package rules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/message"
)

// ruleKeys are the keys of a rule in the order in which `rules fmt` writes them.
func ruleKeys() []string {
	return slices.Concat([]string{"id", "owner", "description", "from", "when"}, operatorKeys(), []string{"transform", "to", "on_error", "mode"})
}

// readRule reads one rule; nil when it has no usable id.
func readRule(d *document, n ast.Node) *ruleDef {
	d.rule = idOf(n)
	o, ok := d.object(n, "a rule", ruleKeys()...)
	if !ok {
		return nil
	}
	r := &ruleDef{doc: d, mode: ruleMode{canary: wholeFleet}}
	if !r.readID(o) {
		return nil
	}
	if s, ok := o.text("owner"); ok {
		r.owner = s.value
	}
	if s, ok := o.text("description"); ok {
		r.description = strings.TrimSpace(s.value)
	}
	r.readFrom(o)
	r.when = o.expr("when")
	r.readOperators(o)
	if n, ok := o.values["transform"]; ok {
		r.transform = readValue(d, n, `"transform"`, 0)
	}
	r.readTargets(o)
	if n, ok := o.values["on_error"]; ok {
		r.readOnError(n)
	}
	if n, ok := o.values["mode"]; ok {
		r.readMode(n)
	}
	return r
}

// readOperators reads the operators in the order in which they are applied.
func (r *ruleDef) readOperators(o *object) {
	for _, op := range Operators() {
		if n, ok := o.values[op.Name]; ok {
			if args := op.Read(o.d, n); args != nil {
				r.operators = append(r.operators, operatorDef{op, args})
			}
		}
	}
}

// idOf finds the id of a rule that may have other faults, for the messages about these.
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

func (r *ruleDef) readID(o *object) bool {
	if !o.has("id") {
		o.missing("id", "give the rule a short name that no other rule has")
		return false
	}
	s, ok := o.text("id")
	if !ok {
		return false
	}
	if !validID(s.value) {
		o.d.fail(s.line, s.col, CodeBadName, `use letters and digits, inside it also "-", "_" and "."; at most 64`, "%q is not a rule id", s.value)
		return false
	}
	r.id = s
	return true
}

func (r *ruleDef) readFrom(o *object) {
	n, ok := o.values["from"]
	if !ok {
		o.missing("from", `for example from: ["v1/+/up/telemetry"]`)
		return
	}
	nodes := []ast.Node{n}
	if _, isList := n.(*ast.SequenceNode); isList {
		nodes, _ = o.d.list(n, `"from"`)
	}
	if len(nodes) == 0 || len(nodes) > maxFilters {
		o.d.failAt(n, CodeBadFilter, `for example ["v1/+/up/telemetry"]`, "a rule has from 1 to %d topic filters", maxFilters)
	}
	for _, n := range nodes {
		s, ok := o.d.scalar(n, "a topic filter")
		if !ok {
			continue
		}
		if err := message.ValidFilter(s.value); err != nil {
			o.d.fail(s.line, s.col, CodeBadFilter, "filters are MQTT filters, for example v1/+/up/telemetry or v1/+/up/#", "%q: %v", s.value, err)
			continue
		}
		if _, _, shared := message.SplitShare(s.value); shared {
			o.d.fail(s.line, s.col, CodeBadFilter, "leave $share/{group}/ away", "%q: rules see every message, shares have no meaning here", s.value)
			continue
		}
		if name := wordMeantAsWildcard(s.value); name != "" {
			o.d.fail(s.line, s.col, CodeBadFilter, "write + for one level of any name, # at the end for all that follow",
				"%q: %s has no meaning in a topic filter, no vehicle's topic has it", s.value, name)
			continue
		}
		r.from = append(r.from, s)
	}
}

// wordMeantAsWildcard returns the first level of a filter that is a wildcard or placeholder elsewhere, and here a plain
// word: *, {vin}, ${vin}. "" when there is none.
func wordMeantAsWildcard(filter string) string {
	for level := range strings.SplitSeq(filter, "/") {
		if level == "*" || level == "**" || strings.HasSuffix(level, "}") && strings.HasPrefix(strings.TrimPrefix(level, "$"), "{") {
			return level
		}
	}
	return ""
}

// wholeFleet is 100 % in hundredths of a percent.
const wholeFleet = 10_000

func (r *ruleDef) readMode(n ast.Node) {
	const suggestion = "write enabled, disabled, shadow or {canary: 5%}"
	if _, isMap := n.(*ast.MappingNode); isMap {
		o, ok := r.doc.object(n, `"mode"`, "canary")
		if !ok {
			return
		}
		s, ok := o.text("canary")
		if !ok {
			if !o.has("canary") {
				o.missing("canary", suggestion)
			}
			return
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(s.value, "%")), 64)
		if err != nil || !strings.HasSuffix(s.value, "%") || !(v >= 0 && v <= 100) {
			r.doc.fail(s.line, s.col, CodeBadMode, "write a share of the vehicles: 0.5%, 5%, 50%", "%q is not a share from 0%% to 100%%", s.value)
			return
		}
		r.mode.canary = uint64(v*100 + 0.5)
		return
	}
	s, ok := r.doc.scalar(n, `"mode"`)
	if !ok {
		return
	}
	switch s.value {
	case "enabled":
	case "disabled":
		r.mode.disabled = true
	case "shadow":
		r.mode.shadow = true
	default:
		r.doc.fail(s.line, s.col, CodeBadMode, suggestion, "%q is not a mode", s.value)
	}
}

func (r *ruleDef) readTargets(o *object) {
	n, ok := o.values["to"]
	if !ok {
		o.missing("to", "for example to: [{kafka: {topic: vehicle.telemetry}}]")
		return
	}
	nodes := []ast.Node{n}
	if _, single := n.(*ast.MappingNode); !single {
		if nodes, ok = o.d.list(n, `"to"`); !ok {
			return
		}
	}
	if len(nodes) == 0 || len(nodes) > maxTargets {
		o.d.failAt(n, CodeNoTarget, "", "a rule has from 1 to %d targets", maxTargets)
	}
	for _, n := range nodes {
		if t, args := readTarget(o.d, n); args != nil {
			r.to = append(r.to, targetDef{t, args})
		}
	}
}

func (r *ruleDef) readOnError(n ast.Node) {
	o, ok := r.doc.object(n, `"on_error"`, "kafka")
	if !ok {
		return
	}
	if !o.has("kafka") {
		o.missing("kafka", "for example on_error: {kafka: {topic: vehicle.rule-errors}}")
		return
	}
	k, ok := r.doc.object(o.values["kafka"], `"kafka"`, "topic")
	if !ok {
		return
	}
	if !k.has("topic") {
		k.missing("topic", topicKey.Need)
	} else if s, ok := k.text("topic"); ok {
		r.onError = &s
	}
}

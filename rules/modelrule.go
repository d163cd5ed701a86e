package rules

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/message"
)

var ruleKeys = []string{
	"id", "owner", "description", "from", "when", "sample", "dedupe", "on_change", "threshold", "geofence",
	"rate_limit", "count", "transform", "to", "on_error", "mode",
}

// readRule reads one rule; nil when it has no usable id.
func readRule(d *document, n ast.Node) *ruleDef {
	d.rule = idOf(n)
	o, ok := d.object(n, "a rule", ruleKeys...)
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
	r.operators = readOperators(o)
	if n, ok := o.values["transform"]; ok {
		r.transform = d.value(n, `"transform"`, 0)
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

// cutNumber reports a decimal comma that has cut a number in two: what stands behind it is a name without a value then.
func (d *document) cutNumber(e entry) bool {
	_, empty := e.value.(*ast.NullNode)
	if !empty || e.key.kind != numberScalar {
		return false
	}
	d.fail(e.key.line, e.key.col, CodeBadName, decimalPoint, "%q is a name without a value", e.key.value)
	return true
}

// value reads an expression, or mappings and lists of expressions.
func (d *document) value(n ast.Node, what string, depth int) *valueDef {
	if depth > maxPath {
		d.failAt(n, CodeTooLarge, "write it flatter", "nested deeper than %d", maxPath)
		return nil
	}
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		entries, ok := d.entries(n, what)
		if !ok {
			return nil
		}
		v := &valueDef{}
		for _, e := range entries {
			if d.cutNumber(e) {
				return nil
			}
			if item := d.value(e.value, strconv.Quote(e.key.value), depth+1); item != nil {
				v.names, v.items = append(v.names, e.key.value), append(v.items, item)
			}
		}
		return v
	case *ast.SequenceNode:
		v := &valueDef{isList: true}
		for _, e := range n.Values {
			if item := d.value(e, "a list's value", depth+1); item != nil {
				v.items = append(v.items, item)
			}
		}
		return v
	case *ast.NullNode:
		return &valueDef{expr: &scalar{value: "nil", lines: d.lines}}
	}
	s, ok := d.expression(n, what)
	if !ok {
		return nil
	}
	return &valueDef{expr: &s}
}

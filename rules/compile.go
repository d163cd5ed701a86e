package rules

import (
	"cmp"
	"fmt"
	"strconv"
)

// Compile compiles a source. When it finds anything wrong it returns all that it finds and no set: a rule
// set is applied whole or not at all.
func Compile(src *Source, opts Options) (*Set, Diagnostics) {
	c := &compiler{
		opts: opts, ids: map[string]*ruleDef{},
		set: &Set{
			hash: src.Hash(), cell: opts.Cell, source: src, errTopic: cmp.Or(opts.ErrorTopic, DefaultErrorTopic), operKeys: map[uint64]struct{}{},
		},
		symbols: &symbols{byKey: map[string]uint16{}},
	}
	for _, name := range src.names {
		f := readRuleFile(src.display(name), name, src.files[name], c.report)
		c.file(f)
		if !f.listed {
			c.set.unfinished = append(c.set.unfinished, f.unfinished())
		}
	}
	if len(c.diags) > 0 {
		c.diags.sort()
		return nil, c.diags
	}
	s := c.set
	s.symbols = c.symbols.list
	for _, r := range s.rules {
		if !r.def.mode.disabled {
			for _, f := range r.info.From {
				s.index.add(f, r.index)
			}
		}
	}
	s.scopes.New = func() any { return newScope(s) }
	return s, nil
}

type compiler struct {
	opts    Options
	set     *Set
	symbols *symbols
	ids     map[string]*ruleDef
	diags   Diagnostics
}

func (c *compiler) report(d Diagnostic) {
	if len(c.diags) < maxDiagnostics {
		c.diags = append(c.diags, d)
	}
}

// file compiles the rules of one file.
func (c *compiler) file(f *ruleFile) {
	all := names{lists: f.lists, macros: f.macros, schema: &f.schema, symbols: c.symbols}
	for i, m := range f.macros {
		f.doc.rule = "macro " + m.name.value
		n := all
		n.macros = f.macros[:i]
		if later := usesMacro(m.expr.value, f.macros[i:]); later != "" {
			f.doc.fail(m.expr.line, m.expr.col, CodeMacro, "put it below the macros that it uses", "the macro uses %q, which is not above it", later)
			continue
		}
		n.compile(f.doc, &m.expr, wantAny)
	}
	for _, def := range f.rules {
		f.doc.rule = def.id.value
		if first := c.ids[def.id.value]; first != nil {
			f.doc.fail(def.id.line, def.id.col, CodeDuplicateID, "choose another id",
				"the id is taken by the rule at %s:%d", first.doc.file, first.id.line)
			continue
		}
		c.ids[def.id.value] = def
		if len(c.set.rules) >= maxRules {
			f.doc.fail(def.id.line, def.id.col, CodeTooLarge, "", "more than %d rules", maxRules)
			return
		}
		c.rule(f, def, all)
	}
}

// unfinished is the finding that a file has no list of rules: it is empty, or its writer has not come to it yet.
func (f *ruleFile) unfinished() Diagnostic {
	return Diagnostic{
		File: f.doc.file, Line: 1, Column: 1, Code: CodeMissing, Rule: "file", Source: sourceLine(f.doc.text, 1),
		Message: `the file has no list "rules"`, Suggestion: "write its rules, or `rules: []` when there are to be none, or remove the file",
	}
}

// usesMacro returns the first of the macros that an expression names.
func usesMacro(src string, macros []macroDef) string {
	tree, err := parseExpr(src)
	if err != nil {
		return ""
	}
	used := map[string]bool{}
	walkNames(&tree.Node, func(name string) { used[name] = true })
	for _, m := range macros {
		if used[m.name.value] {
			return m.name.value
		}
	}
	return ""
}

func (c *compiler) rule(f *ruleFile, def *ruleDef, n names) {
	r := &rule{def: def, index: uint16(len(c.set.rules)), schema: n.schema, errTopic: c.set.errTopic} //nolint:gosec // at most maxRules
	r.names = &n
	d := f.doc
	r.when = n.compile(d, def.when, wantBool)
	for _, o := range def.operators {
		if op := c.operator(d, def.id.value, o, &n); op != nil {
			r.operators = append(r.operators, op)
		}
		n.operators = append(n.operators, operatorValues[o.kind]...)
	}
	n.decodes = false
	if def.transform != nil {
		r.transform = n.value(d, def.transform)
	}
	transform := n.decodes
	for i, t := range def.to {
		n.decodes = false
		if compiled := c.target(d, t, i, &n); compiled != nil {
			compiled.decodes = n.decodes || (transform && compiled.transforms()) || (compiled.redis.ordered() && r.schema.eventAt != nil)
			r.targets = append(r.targets, compiled)
		}
	}
	if def.onError != nil {
		s := def.onError.topic
		r.errTopic = s.value
		if !validTopic(s.value) {
			d.fail(s.line, s.col, CodeBadTopic, "use letters, digits, . _ and -, without ${…}", "%q is not a Kafka topic", s.value)
		}
	}
	r.usesOper = r.refersToOperator()
	r.describe(f)
	c.set.rules = append(c.set.rules, r)
}

// operator compiles an operator and gives it its place in the state.
func (c *compiler) operator(d *document, id string, o *operatorDef, n *names) operator {
	before := len(c.diags)
	op := newOperator(d, o, n)
	if len(c.diags) > before {
		return nil
	}
	key := hashText(fmt.Sprintf("%s\x00%s\x00%s", id, o.kind, op.definition()))
	if _, taken := c.set.operKeys[key]; taken {
		d.failAt(o.node, CodeOperatorClash, "choose another rule id", "the operator's identity %016x is taken", key)
		return nil
	}
	c.set.operKeys[key] = struct{}{}
	op.setKey(key)
	return op
}

func (c *compiler) target(d *document, def *targetDef, index int, n *names) *target {
	t := &target{index: index, text: strconv.Itoa(index), sink: def.sink, lane: def.lane}
	t.key = n.compile(d, def.key, wantAny)
	if def.sink == SinkRedis {
		t.redis = n.redisTarget(d, def.redis)
		if t.redis == nil {
			return nil
		}
		return t
	}
	t.topic = n.template(d, def.topic)
	if t.topic == nil {
		return nil
	}
	t.topic.topic = true
	n.boundClasses(d, def.topic, t.topic, c.opts.Stored)
	s := def.topic
	check := t.topic.static
	for _, p := range t.topic.parts {
		check += p.text + "x"
	}
	if !validTopic(check) {
		d.fail(s.line, s.col, CodeBadTopic, "use letters, digits, . _ and -, for example vehicle.telemetry", "%q is not a Kafka topic", s.value)
	}
	return t
}

// transforms reports whether the target sends the rule's transform.
func (t *target) transforms() bool {
	return t.redis == nil || (t.redis.value == nil && t.redis.fields == nil && t.redis.values == nil)
}

func (r *rule) describe(f *ruleFile) {
	def := r.def
	r.info = RuleInfo{
		ID: def.id.value, Owner: def.owner, Description: def.description, File: f.name, Line: def.id.line,
		Mode: def.mode.String(), ErrorTopic: r.errTopic,
	}
	if def.when != nil {
		r.info.When = def.when.value
	}
	for _, s := range def.from {
		r.info.From = append(r.info.From, s.value)
	}
	for _, o := range def.operators {
		r.info.Operators = append(r.info.Operators, string(o.kind))
	}
	for _, t := range def.to {
		info := TargetInfo{Sink: t.sink.String(), Name: t.topic.value, Lane: t.lane}
		if t.redis != nil {
			info.Name = t.redis.key.value
		}
		r.info.Targets = append(r.info.Targets, info)
	}
}

// refersToOperator reports whether rendering needs values of the rule's operators.
func (r *rule) refersToOperator() bool {
	if r.transform.usesOperator() {
		return true
	}
	for _, t := range r.targets {
		if t.key.usesOperator() || t.topic.usesOperator() || t.redis.usesOperator() {
			return true
		}
	}
	return false
}

func (e *expression) usesOperator() bool { return e != nil && e.operator }

func (t *template) usesOperator() bool {
	if t == nil {
		return false
	}
	for _, p := range t.parts {
		if p.expr.usesOperator() {
			return true
		}
	}
	return false
}

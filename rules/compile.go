package rules

import (
	"cmp"
	"fmt"
	"strconv"

	"cellgate/broker/message"
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

func (c *compiler) rule(f *ruleFile, def *ruleDef, n names) {
	r := &rule{def: def, index: uint16(len(c.set.rules)), schema: n.schema, errTopic: c.set.errTopic, names: &n} //nolint:gosec // at most maxRules
	d := f.doc
	r.when = n.compile(d, def.when, wantBool)
	for _, o := range def.operators {
		if op := c.operator(d, def.id.value, o, &n); op != nil {
			r.operators = append(r.operators, op)
		}
		n.operators = append(n.operators, o.op.Gives...)
	}
	n.decodes, n.gives = false, false
	if def.transform != nil {
		r.transform = n.value(d, def.transform)
	}
	env := Env{names: &n, Transform: r.transform, TransformDecodes: n.decodes, Stored: c.opts.Stored}
	for i, t := range def.to {
		n.decodes = false
		if sender := t.target.Compile(t.args, env); sender != nil {
			r.targets = append(r.targets, &target{Target: t.target, Sender: sender, args: t.args, text: strconv.Itoa(i), decodes: n.decodes})
		}
	}
	if s := def.onError; s != nil {
		r.errTopic = s.value
		if !validTopic(s.value) {
			d.fail(s.line, s.col, CodeBadTopic, "use letters, digits, . _ and -, without ${…}", "%q is not a Kafka topic", s.value)
		}
	}
	r.usesOper = n.gives
	r.describe(f)
	c.set.rules = append(c.set.rules, r)
}

// operator compiles an operator and gives it its place in the state.
func (c *compiler) operator(d *document, id string, o operatorDef, n *names) *operator {
	before := len(c.diags)
	run := o.op.Compile(o.args, Env{names: n})
	if len(c.diags) > before {
		return nil
	}
	key := message.Hash(fmt.Sprintf("%s\x00%s\x00%s", id, o.op.Name, run.Definition()))
	if _, taken := c.set.operKeys[key]; taken {
		d.failAt(o.args.node, CodeOperatorClash, "choose another rule id", "the operator's identity %016x is taken", key)
		return nil
	}
	c.set.operKeys[key] = struct{}{}
	return &operator{Operator: o.op, Runner: run, args: o.args, key: key}
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
		r.info.Operators = append(r.info.Operators, o.op.Name)
	}
	for _, t := range def.to {
		r.info.Targets = append(r.info.Targets, TargetInfo{Sink: t.target.Kind, Name: t.args.Place(), Lane: t.args.text("lane")})
	}
}

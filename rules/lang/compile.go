package lang

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/index"
	"cellgate/rules/op"
)

// Compile compiles a source. On an error it returns all findings and no set: a rule set is applied whole or not at all.
// Warnings are returned with the set and are in its Warnings too.
func Compile(src *Source, opts Options) (*Set, doc.Diagnostics) {
	c := &compiler{
		opts: opts, ids: map[string]*ruleDef{},
		set: &Set{
			hash: src.Hash(), cell: opts.Cell, source: src, ErrTopic: opts.ErrorTopic, targets: opts.Targets, OperKeys: map[uint64]struct{}{},
			WakeKeys: map[uint64]struct{}{},
		},
		symbols: &expr.Symbols{ByKey: map[string]uint16{}},
	}
	for _, name := range src.names {
		if IsData(name) {
			continue
		}
		before := len(c.diags)
		f := readRuleFile(src.display(name), name, src.files, opts.Targets, c.report)
		c.file(f)
		if len(c.diags) == before && len(f.rules) > 0 { // after an error a name may only seem unused
			f.unused()
		}
		if !f.listed {
			c.set.Unfinished = append(c.set.Unfinished, f.unfinished())
		}
	}
	c.diags = append(c.diags, c.warnings...)
	c.diags.Sort()
	if c.diags.HasErrors() {
		return nil, c.diags
	}
	c.set.Warnings = c.diags
	s := c.set
	s.symbols = c.symbols.List
	whens := make([]*expr.Expression, len(s.Compiled))
	for i, r := range s.Compiled {
		whens[i] = r.When
		if !r.Def.Mode.Disabled {
			for _, f := range r.Info.From {
				s.topics.add(f, r.Index)
			}
		}
	}
	s.index = index.New(s.symbols, whens, s.topics.lists)
	return s, c.diags
}

type compiler struct {
	opts    Options
	set     *Set
	symbols *expr.Symbols
	ids     map[string]*ruleDef
	limits  int // rules with a limit
	diags   doc.Diagnostics
	// warnings are separate so that they do not count towards the limit of errors.
	warnings doc.Diagnostics
}

func (c *compiler) report(d doc.Diagnostic) {
	to := &c.diags
	if d.Level == doc.Warning {
		to = &c.warnings
	}
	if len(*to) < doc.MaxDiagnostics {
		*to = append(*to, d)
	}
}

func (c *compiler) file(f *ruleFile) {
	all := expr.Names{
		Lists: f.lists, Macros: f.macros, Schema: &f.schema, Symbols: c.symbols, Used: f.used, HashKeys: c.opts.HashKeys, Stored: c.opts.Stored,
		Places: f.places, Tables: f.tables, Calls: expr.Calls{},
	}
	for i, m := range f.macros {
		f.doc.Rule = "macro " + m.Name.Value
		n := all
		n.Macros = f.macros[:i]
		if later := expr.UsesMacro(m.Expr.Value, f.macros[i:]); later != "" {
			f.doc.Fail(m.Expr.Line, m.Expr.Col, doc.CodeMacro, "put it below the macros that it uses", "the macro uses %q, which is not above it", later)
			continue
		}
		n.Compile(f.doc, &m.Expr, expr.WantAny)
	}
	before := len(c.set.Compiled)
	for _, def := range f.rules {
		f.doc.Rule = def.id.Value
		if first := c.ids[def.id.Value]; first != nil {
			f.doc.Fail(def.id.Line, def.id.Col, doc.CodeDuplicateID, "choose another id",
				"the id is taken by the rule at %s:%d", first.doc.File, first.id.Line)
			continue
		}
		c.ids[def.id.Value] = def
		if len(c.set.Compiled) >= maxRules {
			f.doc.Fail(def.id.Line, def.id.Col, doc.CodeTooLarge, "", "more than %d rules", maxRules)
			return
		}
		if def.Limit != nil {
			if c.limits++; c.limits > maxLimits {
				f.doc.FailAt(def.node, doc.CodeTooLarge, "use limits only for rules that may do harm", "more than %d rules with limits", maxLimits)
				return
			}
		}
		c.rule(f, def, all)
	}
	var whens []*expr.Expression
	for _, r := range c.set.Compiled[before:] {
		if r.When != nil {
			whens = append(whens, r.When)
		}
	}
	all.Share(whens)
}

// unused warns of names that are never used.
func (f *ruleFile) unused() {
	f.doc.Rule = "file"
	warn := func(what string, name doc.Scalar) {
		if !f.used[name.Value] {
			f.doc.Warn(name.Line, name.Col, doc.CodeUnused, "remove it, or use it", "nothing uses the %s %q", what, name.Value)
		}
	}
	for _, name := range f.listNames {
		warn("list", name)
	}
	for _, name := range slices.Sorted(maps.Keys(f.places)) {
		warn("zone", f.places[name].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(f.tables)) {
		warn("table", f.tables[name].Name)
	}
	for i := range f.macros {
		warn("macro", f.macros[i].Name)
	}
}

// unfinished returns the finding for a file without a list of rules: it is empty or still being written.
func (f *ruleFile) unfinished() doc.Diagnostic {
	return doc.Diagnostic{
		File: f.doc.File, Line: 1, Column: 1, Level: doc.Error, Code: doc.CodeMissing, Rule: "file", Source: doc.SourceLine(f.doc.Text, 1),
		Message: `the file has no list "rules"`, Suggestion: "write its rules, or `rules: []` to have none, or remove the file",
	}
}

func (c *compiler) rule(f *ruleFile, def *ruleDef, n expr.Names) {
	r := &Rule{Def: def, Index: uint16(len(c.set.Compiled)), Schema: n.Schema, ErrTopic: c.set.ErrTopic, Names: &n} //nolint:gosec // at most maxRules
	d := f.doc
	c.input(r, def, &n)
	for _, o := range def.operators {
		if n.Timed && o.op.Ends != nil && o.op.Ends(o.args) {
			d.FailAt(o.args.Node, doc.CodeTwoWindows, "write two rules, or aggregate: {window: 5m, average: …, max: …} for several values of one window",
				"%q follows an operator that sends at the end of a period, and gets no messages", o.op.Name)
			continue
		}
		if compiled := c.operator(d, def.id.Value, o, &n, r.Event); compiled != nil {
			r.Operators = append(r.Operators, compiled)
			if op.Wakes(compiled.Runner) {
				c.wakes(r, compiled, &n)
			}
		}
		n.Operators = append(n.Operators, o.op.Given(o.args)...)
	}
	r.Having = n.Compile(d, def.Having, expr.WantBool)
	switch {
	case def.Transform != nil:
	case n.Timed:
		def.Transform = n.WhatOperatorsGive()
	case n.Each:
		def.Transform = expr.TheItem()
	}
	n.Decodes, n.Gives = false, false
	if def.Transform != nil {
		r.Transform = n.Value(d, def.Transform)
	}
	env := op.Env{Names: &n, Transform: r.Transform, TransformDecodes: n.Decodes, Stored: c.opts.Stored, Webhooks: c.opts.Webhooks}
	for i, t := range def.to {
		n.Decodes = false
		if sender := t.target.Compile(t.args, env); sender != nil {
			r.Targets = append(r.Targets, &Target{Target: t.target, Sender: sender, Args: t.args, Text: strconv.Itoa(i), Decodes: n.Decodes})
		}
	}
	r.ErrEmpty = def.onError.empty
	if def.onError.none {
		r.ErrTopic = ""
	}
	if s := def.onError.topic; s != nil {
		r.ErrTopic = s.Value
		if !op.ValidTopic(s.Value) {
			d.Fail(s.Line, s.Col, doc.CodeBadTopic, "use letters, digits, . _ and -, without ${…}", "%q is not a Kafka topic", s.Value)
		}
	}
	r.UsesGiven = n.Gives
	r.describe(f)
	c.set.Compiled = append(c.set.Compiled, r)
}

// input compiles the parts of a rule before its operators.
func (c *compiler) input(r *Rule, def *ruleDef, n *expr.Names) {
	d := def.doc
	if def.each == nil {
		r.When = n.Compile(d, def.When, expr.WantBool)
	} else {
		c.each(r, def, n)
	}
	if s := def.event; s != nil {
		if r.Event = true; n.Schema.EventAt == nil {
			d.Fail(s.Line, s.Col, doc.CodeMissing, "write schema: {event_at: ts} at the top of the file, with the payload field that has the time",
				"operators go by the time that the message names, and the schema does not say where that is")
		}
	}
}

// each compiles the list whose elements are handled like messages.
func (c *compiler) each(r *Rule, def *ruleDef, n *expr.Names) {
	d, s := def.doc, def.each
	r.Each = n.Compile(d, s, expr.WantAny)
	if r.Each != nil && r.Each.Field < 0 {
		d.Fail(s.Line, s.Col, doc.CodeWrongType, "write a list of the message: each: payload.alarms", "\"each\" must be a payload field")
	}
	_, list := n.Lists[expr.ItemName]
	if list || slices.ContainsFunc(n.Macros, func(m expr.Macro) bool { return m.Name.Value == expr.ItemName }) {
		d.Fail(s.Line, s.Col, doc.CodeBadName, "give the list or macro another name", "with \"each\" the name \"item\" is an element")
	}
	n.Each = true
	r.ItemWhen = n.Compile(d, def.When, expr.WantBool)
}

// wakes records an operator that sends at the end of a period: after it there is no message.
func (c *compiler) wakes(r *Rule, o *Operator, n *expr.Names) {
	n.Timed = true
	if !r.Def.Mode.Disabled {
		c.set.WakeKeys[o.Key] = struct{}{}
	}
}

// operator compiles an operator and computes the key of its memory.
func (c *compiler) operator(d *doc.Document, id string, o operatorDef, n *expr.Names, event bool) *Operator {
	before := len(c.diags)
	run := o.op.Compile(o.args, op.Env{Names: n, Event: event})
	if len(c.diags) > before {
		return nil
	}
	key := message.Hash(fmt.Sprintf("%s\x00%s\x00%s", id, o.op.Name, run.Definition()))
	if _, taken := c.set.OperKeys[key]; taken {
		d.FailAt(o.args.Node, doc.CodeOperatorClash, "choose another rule id", "the operator's identity %016x is taken", key)
		return nil
	}
	c.set.OperKeys[key] = struct{}{}
	return &Operator{Operator: o.op, Runner: run, Args: o.args, Key: key}
}

func (r *Rule) describe(f *ruleFile) {
	def := r.Def
	r.Info = RuleInfo{
		ID: def.id.Value, Owner: def.owner, Description: def.description, File: f.name, Line: def.id.Line,
		Mode: def.Mode.String(), ErrorTopic: r.ErrTopic,
	}
	if def.Limit != nil {
		r.Limit, r.Version, r.Info.Limit = def.Limit, def.version, def.Limit.String()
	}
	if def.When != nil {
		r.Info.When = def.When.Value
	}
	for _, s := range def.from {
		r.Info.From = append(r.Info.From, s.Value)
	}
	for _, o := range def.operators {
		r.Info.Operators = append(r.Info.Operators, o.op.Name)
	}
	for _, t := range def.to {
		r.Info.Targets = append(r.Info.Targets, TargetInfo{Sink: t.target.Kind, Name: t.args.Place(), Lane: t.args.Text("lane")})
	}
}

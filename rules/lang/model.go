package lang

import (
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/op"
)

// Bounds of one rule set.
const (
	maxRules      = 5000
	maxLimits     = 1000 // rules with a limit: a checkpoint stores the counts of each
	MaxTargets    = 16
	maxListValues = 100_000
	MaxFilters    = 64
)

// ruleFile is one file as written, before expressions are compiled.
type ruleFile struct {
	doc   *doc.Document
	name  string
	lists map[string]*expr.List
	// listNames has the positions of the lists' names.
	listNames []doc.Scalar
	places    map[string]*expr.Place
	tables    map[string]*expr.Table
	report    func(doc.Diagnostic)
	used      map[string]bool // lists and macros in use
	macros    []expr.Macro
	schema    expr.Schema
	rules     []*ruleDef
	listed    bool // the file has a list of rules, possibly empty
}

// fileKeys returns the top-level keys of a rule file.
func fileKeys() []string { return []string{"zones", "tables", "lists", "macros", "schema", "rules"} }

// ruleMode says for which vehicles a rule is evaluated and whether it delivers.
type ruleMode struct {
	Disabled, Shadow bool
	Canary           uint64 // in hundredths of a percent; 10,000 is every vehicle
	Salt             string // another salt selects other vehicles
	Control          bool   // control arm: as many vehicles, none of them in the canary of the same share and salt
}

type ruleDef struct {
	doc         *doc.Document
	node        ast.Node
	id          doc.Scalar
	owner       string
	description string
	from        []doc.Scalar
	When        *doc.Scalar
	each        *doc.Scalar
	event       *doc.Scalar // set if operators use the vehicle's clock
	Having      *doc.Scalar
	operators   []operatorDef
	Transform   *expr.Tree
	to          []targetDef
	onError     errorTarget
	Mode        ruleMode
	Limit       *Limit // of errors, nil if there is none
	version     string // of a rule with a Limit: changes with the rule and with the top-level keys of its file
}

// errorTarget is the destination of messages that a rule cannot evaluate.
type errorTarget struct {
	topic *doc.Scalar // nil: the set's
	empty bool        // without the payload
	none  bool        // counted only
}

// operatorDef and targetDef are an operator and a target as written.
type (
	operatorDef struct {
		op   *op.Operator
		args *op.Args
	}
	targetDef struct {
		target *op.Target
		args   *op.Args
	}
)

// readRuleFile reads one file and reports errors to report.
func readRuleFile(display, name string, files map[string][]byte, targets op.Targets, report func(doc.Diagnostic)) *ruleFile {
	d := doc.New(display, files[name], report, "a rule file", fileKeys()...)
	f := &ruleFile{
		doc: d, name: name, lists: map[string]*expr.List{}, used: map[string]bool{}, report: report,
		places: map[string]*expr.Place{}, tables: map[string]*expr.Table{},
	}
	o, ok := d.Root()
	if !ok {
		return f
	}
	f.readLists(o)
	f.readZones(o, files)
	f.readTables(o, files)
	f.readMacros(o)
	f.readSchema(o)
	d.Rule = "file"
	if n, ok := o.Values["rules"]; ok {
		f.readRules(n, targets)
		f.setVersions(o)
	}
	return f
}

func (f *ruleFile) readRules(n ast.Node, targets op.Targets) {
	if _, empty := n.(*ast.NullNode); empty {
		return
	}
	nodes, ok := f.doc.List(n, `"rules"`)
	if !ok {
		return
	}
	f.listed = true
	for _, n := range nodes {
		f.doc.Rule = "file"
		if r := readRule(f.doc, n, targets); r != nil {
			f.rules = append(f.rules, r)
		}
	}
}

// setVersions sets the versions of the rules with a limit.
func (f *ruleFile) setVersions(o *doc.Object) {
	var v *versions
	for _, r := range f.rules {
		if r.Limit == nil {
			continue
		}
		if v == nil {
			v = newVersions(f, o)
		}
		r.version = v.of(f.doc, r.node)
	}
}

func (f *ruleFile) readLists(o *doc.Object) {
	n, ok := o.Values["lists"]
	if !ok {
		return
	}
	entries, _ := f.doc.Entries(n, `"lists"`)
	for _, e := range entries {
		f.doc.Rule = "list " + e.Key.Value
		f.checkName(e.Key)
		nodes, ok := f.doc.List(e.Value, strconv.Quote(e.Key.Value))
		if !ok {
			continue
		}
		if len(nodes) > maxListValues {
			f.doc.FailAt(e.Value, doc.CodeTooLarge, "keep long lists outside the rules", "more than %d values", maxListValues)
			continue
		}
		l := expr.NewList()
		for _, n := range nodes {
			if s, ok := f.doc.Scalar(n, "a list's value"); ok {
				l.Add(s)
			}
		}
		f.lists[e.Key.Value] = l
		f.listNames = append(f.listNames, e.Key)
	}
}

// checkName reports a name that is not valid in expressions or already used.
func (f *ruleFile) checkName(s doc.Scalar) {
	switch {
	case !doc.ValidName(s.Value):
		f.doc.Fail(s.Line, s.Col, doc.CodeBadName, "use letters, digits and _, not a digit first", "%q is not a name", s.Value)
	case expr.IsReserved(s.Value):
		f.doc.Fail(s.Line, s.Col, doc.CodeBadName, "choose another name", "%q already means something in expressions", s.Value)
	case f.lists[s.Value] != nil:
		f.doc.Fail(s.Line, s.Col, doc.CodeBadName, "choose another name", "%q is already a list", s.Value)
	case f.places[s.Value] != nil:
		f.doc.Fail(s.Line, s.Col, doc.CodeBadName, "choose another name", "%q is already a zone", s.Value)
	case f.tables[s.Value] != nil:
		f.doc.Fail(s.Line, s.Col, doc.CodeBadName, "choose another name", "%q is already a table", s.Value)
	}
}

func (f *ruleFile) readMacros(o *doc.Object) {
	n, ok := o.Values["macros"]
	if !ok {
		return
	}
	entries, _ := f.doc.Entries(n, `"macros"`)
	for _, e := range entries {
		f.doc.Rule = "macro " + e.Key.Value
		f.checkName(e.Key)
		if s, ok := f.doc.Expression(e.Value, "a macro"); ok {
			f.macros = append(f.macros, expr.Macro{Name: e.Key, Expr: s})
		}
	}
}

func (f *ruleFile) readSchema(o *doc.Object) {
	n, ok := o.Values["schema"]
	if !ok {
		return
	}
	f.doc.Rule = "schema"
	s, ok := f.doc.Object(n, `"schema"`, "event_at", "fields", "open")
	if !ok {
		return
	}
	if n, ok := s.Values["event_at"]; ok {
		f.readEventAt(n)
	}
	if v, ok := s.Text("open"); ok {
		if v.Kind != doc.BoolScalar {
			f.doc.Fail(v.Line, v.Col, doc.CodeWrongType, "write true or false", `"open" must be true or false`)
		}
		f.schema.Open = v.Value == "true"
	}
	if n, ok := s.Values["fields"]; ok {
		f.schema.Fields, f.schema.Bounds = map[string]expr.FieldType{}, map[string]*expr.Bounds{}
		f.readFields("", n, 0)
	}
}

func (f *ruleFile) readEventAt(n ast.Node) {
	if _, isMap := n.(*ast.MappingNode); !isMap {
		if s, ok := f.doc.Scalar(n, `"event_at"`); ok {
			f.schema.EventAt = f.fieldPath(s)
		}
		return
	}
	o, ok := f.doc.Object(n, `"event_at"`, "field", "unit")
	if !ok {
		return
	}
	if s, ok := o.Text("field"); ok {
		f.schema.EventAt = f.fieldPath(s)
	} else if !o.Has("field") {
		o.Missing("field", "name the payload field that holds the time")
	}
	s, ok := o.Text("unit")
	if !ok {
		return
	}
	units := map[string]expr.TimeUnit{"auto": expr.UnitAuto, "s": expr.UnitSeconds, "ms": expr.UnitMillis}
	unit, ok := units[s.Value]
	if !ok {
		f.doc.Fail(s.Line, s.Col, doc.CodeWrongType, "write auto, s or ms; text is read as RFC 3339", "%q is not a unit of time", s.Value)
	}
	f.schema.Unit = unit
}

// fieldPath splits the name of a payload field at its dots. A leading "payload." is allowed.
func (f *ruleFile) fieldPath(s doc.Scalar) []string {
	path := strings.Split(strings.TrimPrefix(s.Value, "payload."), ".")
	for _, p := range path {
		if p == "" || len(path) > expr.MaxPath {
			f.doc.Fail(s.Line, s.Col, doc.CodeBadName, "write a field's name, for example ts or meta.ts", "%q is not a payload field", s.Value)
			return nil
		}
	}
	return path
}

// readBounds reads {number: [0, 100]}; false for an object with fields.
func (f *ruleFile) readBounds(path string, n ast.Node) bool {
	const example = "write {number: [0, 100]}, or {integer: [0, 100], outside: missing}"
	var of ast.Node
	entries, _ := f.doc.Silent().Entries(n, "a field")
	for _, e := range entries {
		if _, isList := e.Value.(*ast.SequenceNode); isList && (e.Key.Value == "number" || e.Key.Value == "integer") {
			of = e.Value
			f.schema.Fields[path] = fieldTypes[e.Key.Value]
		}
	}
	if of == nil {
		return false
	}
	o, ok := f.doc.Object(n, "a field with bounds", "number", "integer", "outside")
	if !ok || o.Odd {
		return true
	}
	if o.Has("number") && o.Has("integer") {
		f.doc.FailAt(n, doc.CodeWrongType, example, "a field is a number or an integer, not both")
	}
	b := &expr.Bounds{}
	items, _ := f.doc.List(of, "the bounds")
	if len(items) != 2 {
		f.doc.FailAt(of, doc.CodeBadNumber, example, "bounds are two numbers: the least and the greatest")
		return true
	}
	if !f.readBound(items[0], &b.Low, example) || !f.readBound(items[1], &b.High, example) {
		return true
	}
	if b.Low > b.High {
		f.doc.FailAt(of, doc.CodeBadNumber, "write the least number first", "no number lies between %g and %g", b.Low, b.High)
	}
	if s, ok := o.Text("outside"); ok {
		if s.Value != "error" && s.Value != "missing" {
			f.doc.Fail(s.Line, s.Col, doc.CodeWrongType, "write error (as without it), or missing", "%q does not say what a number outside the bounds is", s.Value)
		}
		b.Missing = s.Value == "missing"
	}
	f.schema.Bounds[path] = b
	return true
}

func (f *ruleFile) readBound(n ast.Node, to *float64, example string) bool {
	s, ok := f.doc.Scalar(n, "a bound")
	if !ok {
		return false
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(s.Value, "_", ""), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadNumber, example, "%q is not a number", s.Value)
		return false
	}
	*to = v
	return true
}

var fieldTypes = map[string]expr.FieldType{
	"any": expr.AnyField, "number": expr.NumberField, "integer": expr.IntegerField, "text": expr.TextField, "string": expr.TextField,
	"boolean": expr.BoolField, "bool": expr.BoolField, "list": expr.ListField, "object": expr.ObjectField,
}

func (f *ruleFile) readFields(prefix string, n ast.Node, depth int) {
	entries, ok := f.doc.Entries(n, `"fields"`)
	if !ok || depth > expr.MaxPath {
		return
	}
	for _, e := range entries {
		path := e.Key.Value
		if prefix != "" {
			path = prefix + "." + path
		}
		switch e.Value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			if f.readBounds(path, e.Value) {
				continue
			}
			f.schema.Fields[path] = expr.ObjectField
			f.readFields(path, e.Value, depth+1)
			continue
		}
		s, ok := f.doc.Scalar(e.Value, "a field's type")
		if !ok {
			continue
		}
		t, known := fieldTypes[s.Value]
		if !known {
			names := []string{"number", "integer", "text", "boolean", "list", "object", "any"}
			f.doc.Fail(s.Line, s.Col, doc.CodeWrongType, doc.DidYouMean(s.Value, names), "%q is not a type", s.Value)
		}
		f.schema.Fields[path] = t
	}
}

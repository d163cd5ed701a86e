package rules

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Bounds of one rule set.
const (
	maxRules      = 5000
	maxTargets    = 16
	maxListValues = 100_000
	maxFilters    = 64
)

// ruleFile is one file as it is written, before any expression is looked at.
type ruleFile struct {
	doc    *document
	name   string
	lists  map[string]*listDef
	macros []macroDef
	schema schemaDef
	rules  []*ruleDef
	listed bool // there is a list of rules, empty or not
}

// ruleMode says on which vehicles a rule acts, and whether it delivers.
type ruleMode struct {
	disabled, shadow bool
	canary           uint64 // in hundredths of a percent; 10,000 is every vehicle
}

type ruleDef struct {
	doc         *document
	id          scalar
	owner       string
	description string
	from        []scalar
	when        *scalar
	operators   []operatorDef
	transform   *valueDef
	to          []targetDef
	onError     *scalar // the topic
	mode        ruleMode
}

// operatorDef and targetDef are an operator and a target as they are written.
type (
	operatorDef struct {
		op   *Operator
		args *Args
	}
	targetDef struct {
		target *Target
		args   *Args
	}
)

// readFile reads one file; what is wrong has been reported to report.
func readRuleFile(display, name string, text []byte, report func(Diagnostic)) *ruleFile {
	d := newDocument(display, text, report, "a rule file", "lists", "macros", "schema", "rules")
	f := &ruleFile{doc: d, name: name, lists: map[string]*listDef{}}
	o, ok := d.root()
	if !ok {
		return f
	}
	f.readLists(o)
	f.readMacros(o)
	f.readSchema(o)
	d.rule = "file"
	if n, ok := o.values["rules"]; ok {
		f.readRules(n)
	}
	return f
}

func (f *ruleFile) readRules(n ast.Node) {
	if _, empty := n.(*ast.NullNode); empty {
		return
	}
	nodes, ok := f.doc.list(n, `"rules"`)
	if !ok {
		return
	}
	f.listed = true
	for _, n := range nodes {
		f.doc.rule = "file"
		if r := readRule(f.doc, n); r != nil {
			f.rules = append(f.rules, r)
		}
	}
}

func (f *ruleFile) readLists(o *object) {
	n, ok := o.values["lists"]
	if !ok {
		return
	}
	entries, _ := f.doc.entries(n, `"lists"`)
	for _, e := range entries {
		f.doc.rule = "list " + e.key.value
		f.checkName(e.key)
		nodes, ok := f.doc.list(e.value, strconv.Quote(e.key.value))
		if !ok {
			continue
		}
		if len(nodes) > maxListValues {
			f.doc.failAt(e.value, CodeTooLarge, "keep long lists outside of the rules", "more than %d values", maxListValues)
			continue
		}
		l := &listDef{texts: make(map[string]struct{}, len(nodes)), onlyStr: true}
		for _, n := range nodes {
			if s, ok := f.doc.scalar(n, "a list's value"); ok {
				l.add(s)
			}
		}
		f.lists[e.key.value] = l
	}
}

// checkName reports a name that an expression could not use, or that is taken.
func (f *ruleFile) checkName(s scalar) {
	switch {
	case !validName(s.value):
		f.doc.fail(s.line, s.col, CodeBadName, "use letters, digits and _, not a digit first", "%q is not a name", s.value)
	case isReserved(s.value):
		f.doc.fail(s.line, s.col, CodeBadName, "choose another name", "%q already means something in expressions", s.value)
	case f.lists[s.value] != nil:
		f.doc.fail(s.line, s.col, CodeBadName, "choose another name", "%q is already a list", s.value)
	}
}

func (f *ruleFile) readMacros(o *object) {
	n, ok := o.values["macros"]
	if !ok {
		return
	}
	entries, _ := f.doc.entries(n, `"macros"`)
	for _, e := range entries {
		f.doc.rule = "macro " + e.key.value
		f.checkName(e.key)
		if s, ok := f.doc.expression(e.value, "a macro"); ok {
			f.macros = append(f.macros, macroDef{name: e.key, expr: s})
		}
	}
}

func (f *ruleFile) readSchema(o *object) {
	n, ok := o.values["schema"]
	if !ok {
		return
	}
	f.doc.rule = "schema"
	s, ok := f.doc.object(n, `"schema"`, "event_at", "fields", "open")
	if !ok {
		return
	}
	if n, ok := s.values["event_at"]; ok {
		f.readEventAt(n)
	}
	if v, ok := s.text("open"); ok {
		if v.kind != boolScalar {
			f.doc.fail(v.line, v.col, CodeWrongType, "write true or false", `"open" must be true or false`)
		}
		f.schema.open = v.value == "true"
	}
	if n, ok := s.values["fields"]; ok {
		f.schema.fields = map[string]fieldType{}
		f.readFields("", n, 0)
	}
}

func (f *ruleFile) readEventAt(n ast.Node) {
	if _, isMap := n.(*ast.MappingNode); !isMap {
		if s, ok := f.doc.scalar(n, `"event_at"`); ok {
			f.schema.eventAt = f.fieldPath(s)
		}
		return
	}
	o, ok := f.doc.object(n, `"event_at"`, "field", "unit")
	if !ok {
		return
	}
	if s, ok := o.text("field"); ok {
		f.schema.eventAt = f.fieldPath(s)
	} else if !o.has("field") {
		o.missing("field", "name the payload field that holds the time")
	}
	s, ok := o.text("unit")
	if !ok {
		return
	}
	units := map[string]timeUnit{"auto": unitAuto, "s": unitSeconds, "ms": unitMillis}
	unit, ok := units[s.value]
	if !ok {
		f.doc.fail(s.line, s.col, CodeWrongType, "write auto, s or ms; text is read as RFC 3339", "%q is not a unit of time", s.value)
	}
	f.schema.unit = unit
}

// fieldPath splits a payload field's name at its dots. "payload." in front is tolerated.
func (f *ruleFile) fieldPath(s scalar) []string {
	path := strings.Split(strings.TrimPrefix(s.value, "payload."), ".")
	for _, p := range path {
		if p == "" || len(path) > maxPath {
			f.doc.fail(s.line, s.col, CodeBadName, "write a field's name, for example ts or meta.ts", "%q is not a payload field", s.value)
			return nil
		}
	}
	return path
}

var fieldTypes = map[string]fieldType{
	"any": anyField, "number": numberField, "integer": integerField, "text": textField, "string": textField,
	"boolean": boolField, "bool": boolField, "list": listField, "object": objectField,
}

func (f *ruleFile) readFields(prefix string, n ast.Node, depth int) {
	entries, ok := f.doc.entries(n, `"fields"`)
	if !ok || depth > maxPath {
		return
	}
	for _, e := range entries {
		path := e.key.value
		if prefix != "" {
			path = prefix + "." + path
		}
		switch e.value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			f.schema.fields[path] = objectField
			f.readFields(path, e.value, depth+1)
			continue
		}
		s, ok := f.doc.scalar(e.value, "a field's type")
		if !ok {
			continue
		}
		t, known := fieldTypes[s.value]
		if !known {
			names := []string{"number", "integer", "text", "boolean", "list", "object", "any"}
			f.doc.fail(s.line, s.col, CodeWrongType, didYouMean(s.value, names), "%q is not a type", s.value)
		}
		f.schema.fields[path] = t
	}
}

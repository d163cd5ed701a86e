package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"

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

// listDef is a list of constants: texts and numbers.
type listDef struct {
	texts   map[string]struct{} // the texts, and numbers as they are written
	values  []any
	onlyStr bool
}

type macroDef struct {
	name scalar
	expr scalar
}

// schemaDef says what the payloads of a file's rules hold.
type schemaDef struct {
	eventAt []string // path of the event time; nil when not named
	unit    timeUnit
	fields  map[string]fieldType // by path; nil when the schema names none
	open    bool                 // other fields may be used too
}

type fieldType uint8

const (
	anyField fieldType = iota
	numberField
	integerField
	textField
	boolField
	listField
	objectField
)

type timeUnit uint8

const (
	unitAuto timeUnit = iota
	unitSeconds
	unitMillis
)

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
	operators   []*operatorDef
	transform   *valueDef
	to          []*targetDef
	onError     *targetDef
	mode        ruleMode
}

// valueDef is an expression, or a mapping or list of such.
type valueDef struct {
	expr   *scalar
	names  []string // of a mapping, beside items
	items  []*valueDef
	isList bool
}

type targetDef struct {
	sink  SinkKind
	node  ast.Node
	topic scalar
	key   *scalar
	lane  string
	redis *redisDef
}

type redisDef struct {
	kind      RedisKind
	key       scalar
	set       *valueDef
	fields    *scalar
	newerThan string
	member    *scalar
	value     *scalar
	lon, lat  *scalar
	ttl       time.Duration
	maxLen    int
}

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

// has reports whether a text is in the list.
func (l *listDef) has(text string) bool {
	_, ok := l.texts[text]
	return ok
}

func (l *listDef) add(s scalar) {
	l.texts[s.value] = struct{}{}
	if s.kind == numberScalar {
		if v, err := strconv.ParseFloat(strings.ReplaceAll(s.value, "_", ""), 64); err == nil {
			l.values, l.onlyStr = append(l.values, v), false
			return
		}
	}
	l.values = append(l.values, s.value)
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

// expression reads a scalar that is to be an expression.
func (d *document) expression(n ast.Node, what string) (scalar, bool) {
	switch n.(type) {
	case *ast.SequenceNode, *ast.MappingNode:
		d.failAt(n, CodeWrongType, "an expression that begins with a bracket or brace stands between single quotes: '[payload.a, payload.b]'",
			"%s must be an expression, this is %s", what, kindName(n))
		return scalar{}, false
	}
	s, ok := d.scalar(n, what)
	if !ok {
		return s, false
	}
	if lit, isLit := n.(*ast.LiteralNode); isLit && strings.HasPrefix(lit.Start.Value, ">") || s.many {
		d.fail(s.line, s.col, CodeFolded, `write it on one line, or below "|"`,
			"an expression over several lines must stand below \"|\": folding hides where its lines begin")
		return s, false
	}
	if s.kind == nullScalar || strings.TrimSpace(s.value) == "" {
		d.fail(s.line, s.col, CodeMissing, "write an expression, or remove the key", "%s is empty", what)
		return s, false
	}
	return s, true
}

// expr reads the expression of a key; nil when it is absent or reported.
func (o *object) expr(key string) *scalar {
	n, ok := o.values[key]
	if !ok {
		return nil
	}
	s, ok := o.d.expression(n, fmt.Sprintf("%q", key))
	if !ok {
		return nil
	}
	return &s
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

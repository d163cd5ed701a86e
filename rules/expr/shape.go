package expr

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/valyala/fastjson"

	"cellgate/rules/doc"
)

// shapeKeys are the keys of a transform that keeps parts of the payload.
var shapeKeys = []string{"keep", "drop", "set", "missing"}

// Values of the key missing.
const (
	missingOmit = "omit"
	missingNull = "null"
)

// shapeTree is such a transform as written. `set` is the tree that it belongs to.
type shapeTree struct {
	keep    bool // keep the payload
	at      ast.Node
	only    []fieldName
	drop    []fieldName
	omit    bool
	written string
}

// fieldName is a field of the payload and its position in the file.
type fieldName struct {
	doc.Scalar
	path []string
}

// ReadTransform reads a transform: an expression, a mapping or list of expressions, or the parts of the payload to keep
// and the values to set.
func ReadTransform(d *doc.Document, n ast.Node) *Tree {
	const what = `"transform"`
	if !isShape(n) {
		return ReadValue(d, n, what, 0)
	}
	o, ok := d.Object(n, what, shapeKeys...)
	if !ok {
		return nil
	}
	s := &shapeTree{}
	t := &Tree{shape: s}
	s.readKeep(o)
	if n, ok := o.Values["drop"]; ok {
		s.drop = readFieldNames(d, n, `"drop"`)
	}
	if w, ok := o.Text("missing"); ok {
		if w.Value != missingOmit && w.Value != missingNull {
			d.Fail(w.Line, w.Col, doc.CodeWrongType, "write omit, or null", "%q does not say what to do with a missing value", w.Value)
		}
		s.omit = w.Value == missingOmit
	}
	if n, ok := o.Values["set"]; ok {
		if set := ReadValue(d, n, `"set"`, 0); set != nil {
			t.Names, t.Items = set.Names, set.Items
			if set.Expr != nil || set.IsList {
				d.FailAt(n, doc.CodeWrongType, "write set: {name: payload.name}", `"set" must be a mapping of names to expressions`)
			}
		}
	}
	if !s.keep && t.Items == nil {
		o.Missing("set", "say what the message contains: set: {name: payload.name}, or keep: payload")
	}
	if !s.keep && s.drop != nil {
		d.FailAt(o.Values["drop"], doc.CodeWrongType, "write keep: payload next to it", `"drop" removes fields from what "keep" keeps, and nothing is kept`)
	}
	s.written = s.describe(t)
	return t
}

// isShape distinguishes a transform that keeps parts of the payload from a mapping with fields of the same names: it has
// only the keys of the former, and a value that makes sense only there.
func isShape(n ast.Node) bool {
	pairs := mappingPairs(n)
	meant := false
	for _, p := range pairs {
		key := p.Key.GetToken().Value
		if !slices.Contains(shapeKeys, key) {
			return false
		}
		_, isList := p.Value.(*ast.SequenceNode)
		word := ""
		if token := p.Value.GetToken(); token != nil {
			word = token.Value
		}
		meant = meant || key == "keep" && (isList || word == "payload") || key == "drop" && isList ||
			key == "missing" && (word == missingOmit || word == missingNull)
	}
	return meant
}

func mappingPairs(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

func (s *shapeTree) readKeep(o *doc.Object) {
	n, ok := o.Values["keep"]
	if !ok {
		return
	}
	s.keep, s.at = true, n
	if _, isList := n.(*ast.SequenceNode); isList {
		s.only = readFieldNames(o.Doc, n, `"keep"`)
		return
	}
	if w, ok := o.Text("keep"); ok && w.Value != "payload" {
		o.Doc.Fail(w.Line, w.Col, doc.CodeWrongType, "write keep: payload, or a list of fields: keep: [soc, position.lat]", "%q cannot be kept", w.Value)
	}
}

// readFieldNames reads a list of fields. A leading "payload." is allowed.
func readFieldNames(d *doc.Document, n ast.Node, what string) []fieldName {
	nodes, ok := d.List(n, what)
	if !ok {
		return nil
	}
	var names []fieldName
	for _, n := range nodes {
		s, ok := d.Scalar(n, "a field's name")
		if !ok {
			continue
		}
		path := strings.Split(strings.TrimPrefix(s.Value, "payload."), ".")
		if slices.Contains(path, "") || len(path) > MaxPath {
			d.Fail(s.Line, s.Col, doc.CodeBadName, "write a field's name, for example driver or position.lat", "%q is not a payload field", s.Value)
			continue
		}
		names = append(names, fieldName{s, path})
	}
	return names
}

// describe returns the transform on one line.
func (s *shapeTree) describe(t *Tree) string {
	var parts []string
	list := func(names []fieldName) string {
		texts := make([]string, len(names))
		for i := range names {
			texts[i] = strings.Join(names[i].path, ".")
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	switch {
	case s.only != nil:
		parts = append(parts, "keep: "+list(s.only))
	case s.keep:
		parts = append(parts, "keep: payload")
	}
	if s.drop != nil {
		parts = append(parts, "drop: "+list(s.drop))
	}
	if t.Items != nil {
		parts = append(parts, "set: "+(&Tree{Names: t.Names, Items: t.Items}).Describe())
	}
	if s.omit {
		parts = append(parts, "missing: omit")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// shape says which parts of the payload a compiled transform keeps.
type shape struct {
	keep       bool
	only, drop *fieldTree // nil: all, none
	omit       bool       // leave out missing values
	set        map[string]bool
	code       string
}

// fieldTree is a set of field paths.
type fieldTree struct {
	whole bool // the field and everything below it
	below map[string]*fieldTree
}

func (t *fieldTree) at(key []byte) *fieldTree {
	if t == nil {
		return nil
	}
	return t.below[string(key)]
}

// shape compiles the kept parts of the payload and checks the fields against the schema.
func (n *Names) shape(d *doc.Document, t *Tree) *shape {
	s := t.shape
	if s == nil {
		return nil
	}
	out := &shape{keep: s.keep, omit: s.omit, set: map[string]bool{}, code: s.written}
	if s.keep {
		n.Decodes = true
		if n.Timed {
			d.FailAt(s.at, doc.CodeNoMessage, "write set: {name: operator.x} without keep", "at the end of a period there is no message, and no payload to keep")
		}
	}
	if s.only != nil {
		out.only = n.fieldTree(d, s.only)
	}
	if s.drop != nil {
		out.drop = n.fieldTree(d, s.drop)
	}
	for _, name := range t.Names {
		out.set[name] = true
	}
	return out
}

func (n *Names) fieldTree(d *doc.Document, names []fieldName) *fieldTree {
	root := &fieldTree{below: map[string]*fieldTree{}}
	for i := range names {
		f := &names[i]
		if suggestion := n.Schema.unknownField(f.path); suggestion != "" {
			d.Fail(f.Line, f.Col, doc.CodeUnknownField, suggestion, "the schema has no field %q", strings.Join(f.path, "."))
		}
		at := root
		for _, step := range f.path {
			if at.below[step] == nil {
				at.below[step] = &fieldTree{below: map[string]*fieldTree{}}
			}
			at = at.below[step]
		}
		at.whole = true
	}
	return root
}

// render appends the kept fields of the payload, without the closing brace. some reports whether there are any.
func (s *shape) render(sc *Scope, dst []byte) (out []byte, some bool, err error) {
	dst = append(dst, '{')
	if !s.keep {
		return dst, false, nil
	}
	v, err := sc.Document()
	if err != nil {
		return dst, false, err
	}
	if v.Type() != fastjson.TypeObject {
		return dst, false, fmt.Errorf("%w: the payload is not an object, so no fields can be kept", ErrRender)
	}
	from := len(dst)
	dst = appendKept(dst, v, s.only, s.drop, s.set)
	return dst, len(dst) > from, nil
}

// appendKept appends the kept members of an object, separated by commas.
func appendKept(dst []byte, v *fastjson.Value, only, drop *fieldTree, set map[string]bool) []byte {
	o, _ := v.Object()
	some := false
	o.Visit(func(key []byte, item *fastjson.Value) {
		k, d := only.at(key), drop.at(key)
		switch {
		case only != nil && k == nil, d != nil && d.whole, set[string(key)]:
			return
		case k != nil && k.whole:
			k = nil
		}
		within := k != nil || d != nil
		if within && k != nil && item.Type() != fastjson.TypeObject {
			return // not a field below it
		}
		if some {
			dst = append(dst, ',')
		}
		some = true
		dst = append(appendString(dst, key), ':')
		if within && item.Type() == fastjson.TypeObject {
			dst = append(appendKept(append(dst, '{'), item, k, d, nil), '}')
			return
		}
		dst = appendField(dst, item)
	})
	return dst
}

// renderObject appends a mapping: the kept fields, then the items. omit leaves out missing items.
func (v *Value) renderObject(sc *Scope, dst []byte, omit bool) ([]byte, error) {
	some := false
	if v.shape != nil {
		var err error
		if dst, some, err = v.shape.render(sc, dst); err != nil {
			return dst, err
		}
		omit = v.shape.omit
	} else {
		dst = append(dst, '{')
	}
	for i, item := range v.items {
		begin := len(dst)
		if some {
			dst = append(dst, ',')
		}
		dst = append(dst, v.prefix[i]...)
		out, there, err := item.renderItem(sc, dst, omit)
		if err != nil {
			return out, err
		}
		if dst = out; !there {
			dst = dst[:begin]
			continue
		}
		some = true
	}
	return append(dst, '}'), nil
}

// renderItem does the same as Render; there is false for a missing value that is left out.
func (v *Value) renderItem(sc *Scope, dst []byte, omit bool) (out []byte, there bool, err error) {
	switch {
	case v.expr == nil && !v.isList:
		dst, err = v.renderObject(sc, dst, omit)
		return dst, true, err
	case !omit || v.expr == nil:
		dst, err = v.Render(sc, dst)
		return dst, true, err
	}
	from := len(dst)
	dst, err = sc.appendExpr(dst, v.expr)
	return dst, string(dst[from:]) != missingNull, err
}

// unknownField returns a suggestion for a field that a closed schema does not have; "" if it has the field.
func (s *Schema) unknownField(path []string) string {
	if _, ok := s.lookup(path); ok || s.hasDeeper(path) {
		return ""
	}
	if near := s.nearest(strings.Join(path, ".")); near != "" {
		return "did you mean " + strconv.Quote(near) + "?"
	}
	return addToSchema
}

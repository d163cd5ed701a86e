package rules

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// valueDef is an expression, or a mapping or list of such.
type valueDef struct {
	expr   *scalar
	names  []string // of a mapping, beside items
	items  []*valueDef
	isList bool
}

// readValue reads an expression, or mappings and lists of expressions.
func readValue(d *document, n ast.Node, what string, depth int) *valueDef {
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
			if item := readValue(d, e.value, strconv.Quote(e.key.value), depth+1); item != nil {
				v.names, v.items = append(v.names, e.key.value), append(v.items, item)
			}
		}
		return v
	case *ast.SequenceNode:
		v := &valueDef{isList: true}
		for _, e := range n.Values {
			if item := readValue(d, e, "a list's value", depth+1); item != nil {
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

// value is a compiled transform: an expression, or a mapping or list of values.
type value struct {
	expr   *expression
	prefix [][]byte // of a mapping: {"name": or ,"name":
	names  []string
	items  []*value
	isList bool
}

// value compiles a transform; parts that were reported are nil.
func (n *names) value(d *document, def *valueDef) *value {
	v := &value{isList: def.isList, names: def.names}
	if def.expr != nil {
		v.expr = n.compile(d, def.expr, wantAny)
		return v
	}
	for i, item := range def.items {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		if !def.isList {
			v.prefix = append(v.prefix, append(appendString([]byte{sep}, def.names[i]), ':'))
		}
		v.items = append(v.items, n.value(d, item))
	}
	return v
}

// render appends the value as JSON.
func (v *value) render(sc *scope, dst []byte) ([]byte, error) {
	if v.expr != nil {
		return sc.appendExpr(dst, v.expr)
	}
	if len(v.items) == 0 {
		if v.isList {
			return append(dst, "[]"...), nil
		}
		return append(dst, "{}"...), nil
	}
	var err error
	for i, item := range v.items {
		switch {
		case !v.isList:
			dst = append(dst, v.prefix[i]...)
		case i == 0:
			dst = append(dst, '[')
		default:
			dst = append(dst, ',')
		}
		if dst, err = item.render(sc, dst); err != nil {
			return dst, err
		}
	}
	if v.isList {
		return append(dst, ']'), nil
	}
	return append(dst, '}'), nil
}

// appendExpr appends what an expression gives as JSON. A plain payload field is copied as it was sent.
func (sc *scope) appendExpr(dst []byte, e *expression) ([]byte, error) {
	if e.field >= 0 {
		f, err := sc.field(sc.symbols[e.field].path)
		if err != nil {
			return dst, err
		}
		return appendField(dst, f), nil
	}
	v, err := sc.run(e)
	if err != nil {
		return dst, err
	}
	return appendJSON(dst, v), nil
}

// appendPlain appends what an expression gives as text; ok is false for nil.
func (sc *scope) appendPlain(dst []byte, e *expression) (out []byte, ok bool, err error) {
	v, err := sc.run(e)
	if err != nil || v == nil {
		return dst, false, err
	}
	return appendText(dst, v), true, nil
}

// maxRendered bounds the message that a rule makes of a record, in bytes: Kafka's own default for one
// message is 1 MiB.
const maxRendered = 4 << 20

func checkSize(b []byte) error {
	if len(b) > maxRendered {
		return fmt.Errorf("%w: the result is larger than %d bytes", ErrRender, maxRendered)
	}
	return nil
}

func (v *valueDef) describe() string {
	if v == nil {
		return ""
	}
	if v.expr != nil {
		return v.expr.text()
	}
	items := make([]string, len(v.items))
	for i, item := range v.items {
		items[i] = item.describe()
		if !v.isList {
			items[i] = v.names[i] + ": " + items[i]
		}
	}
	if v.isList {
		return "[" + strings.Join(items, ", ") + "]"
	}
	return "{" + strings.Join(items, ", ") + "}"
}

func (v *value) code() string {
	if v == nil {
		return ""
	}
	if v.expr != nil {
		return fmt.Sprint(v.expr.digest())
	}
	codes := make([]string, len(v.items))
	for i, item := range v.items {
		codes[i] = item.code()
	}
	return fmt.Sprintf("%t %q %q", v.isList, v.names, codes)
}

// appendValue appends a value as text: an expression's as it is, a mapping or list as JSON, nothing for nil.
func (sc *scope) appendValue(dst []byte, v *value) ([]byte, error) {
	if v.expr == nil {
		return v.render(sc, dst)
	}
	if v.expr.field >= 0 {
		f, err := sc.field(sc.symbols[v.expr.field].path)
		if err != nil {
			return dst, err
		}
		return appendScalar(dst, f), nil
	}
	dst, _, err := sc.appendPlain(dst, v.expr)
	return dst, err
}

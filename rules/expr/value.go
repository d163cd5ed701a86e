package expr

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
)

// Tree is an expression, or a mapping or list of expressions.
type Tree struct {
	Expr   *doc.Scalar
	Names  []string // of a mapping, parallel to Items
	Items  []*Tree
	IsList bool
	shape  *shapeTree // parts of the payload to keep next to the items; nil: none
}

// ReadValue reads an expression, or mappings and lists of expressions.
func ReadValue(d *doc.Document, n ast.Node, what string, depth int) *Tree {
	if depth > MaxPath {
		d.FailAt(n, doc.CodeTooLarge, "write it flatter", "nested deeper than %d", MaxPath)
		return nil
	}
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		entries, ok := d.Entries(n, what)
		if !ok {
			return nil
		}
		v := &Tree{}
		for _, e := range entries {
			if d.CutNumber(e) {
				return nil
			}
			d.NoValue(e)
			if item := ReadValue(d, e.Value, strconv.Quote(e.Key.Value), depth+1); item != nil {
				v.Names, v.Items = append(v.Names, e.Key.Value), append(v.Items, item)
			}
		}
		return v
	case *ast.SequenceNode:
		v := &Tree{IsList: true}
		for _, e := range n.Values {
			if item := ReadValue(d, e, "a list's value", depth+1); item != nil {
				v.Items = append(v.Items, item)
			}
		}
		return v
	case *ast.NullNode:
		return &Tree{Expr: &doc.Scalar{Value: "nil", Lines: d.Lines}}
	}
	s, ok := d.Expression(n, what)
	if !ok {
		return nil
	}
	return &Tree{Expr: &s}
}

// Value is a compiled transform: an expression, or a mapping or list of values.
type Value struct {
	expr   *Expression
	prefix [][]byte // of a mapping: "name":
	names  []string
	items  []*Value
	isList bool
	shape  *shape // nil: keeps nothing of the payload
}

// Value compiles a transform. It reports errors; the parts that have them are nil.
func (n *Names) Value(d *doc.Document, def *Tree) *Value {
	v := &Value{isList: def.IsList, names: def.Names, shape: n.shape(d, def)}
	if def.Expr != nil {
		v.expr = n.Compile(d, def.Expr, WantAny)
		return v
	}
	for i, item := range def.Items {
		if !def.IsList {
			v.prefix = append(v.prefix, append(appendString(nil, def.Names[i]), ':'))
		}
		v.items = append(v.items, n.Value(d, item))
	}
	return v
}

// Render appends the value as JSON.
func (v *Value) Render(sc *Scope, dst []byte) ([]byte, error) {
	if v.expr != nil {
		return sc.appendExpr(dst, v.expr)
	}
	if !v.isList {
		return v.renderObject(sc, dst, false)
	}
	dst = append(dst, '[')
	for i, item := range v.items {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = item.Render(sc, dst); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func (sc *Scope) appendExpr(dst []byte, e *Expression) ([]byte, error) {
	v, err := sc.PassOn(e)
	if err != nil {
		return dst, err
	}
	return AppendJSON(dst, v), nil
}

// AppendPlain appends the value of an expression as text; ok is false for nil.
func (sc *Scope) AppendPlain(dst []byte, e *Expression) (out []byte, ok bool, err error) {
	v, err := sc.PassOn(e)
	if err != nil || v == nil {
		return dst, false, err
	}
	return AppendText(dst, v), true, nil
}

// maxRendered bounds the message that a rule renders from a record, in bytes. Kafka's default limit for a message is 1
// MiB.
const maxRendered = 4 << 20

// CheckSize returns an error for a message larger than maxRendered.
func CheckSize(b []byte) error {
	if len(b) > maxRendered {
		return fmt.Errorf("%w: the result is larger than %d bytes", ErrRender, maxRendered)
	}
	return nil
}

// Describe returns the tree as written, on one line.
func (v *Tree) Describe() string {
	if v == nil {
		return ""
	}
	if v.Expr != nil {
		return v.Expr.Text()
	}
	if v.shape != nil {
		return v.shape.written
	}
	items := make([]string, len(v.Items))
	for i, item := range v.Items {
		items[i] = item.Describe()
		if !v.IsList {
			items[i] = v.Names[i] + ": " + items[i]
		}
	}
	if v.IsList {
		return "[" + strings.Join(items, ", ") + "]"
	}
	return "{" + strings.Join(items, ", ") + "}"
}

// Code identifies what a value gives.
func (v *Value) Code() string {
	if v == nil {
		return ""
	}
	if v.expr != nil {
		return fmt.Sprint(v.expr.Digest())
	}
	codes := make([]string, len(v.items))
	for i, item := range v.items {
		codes[i] = item.Code()
	}
	code := fmt.Sprintf("%t %q %q", v.isList, v.names, codes)
	if v.shape != nil {
		code += v.shape.code
	}
	return code
}

// AppendValue appends a value as text: an expression's as plain text, a mapping or list as JSON; ok is false for nil.
func (sc *Scope) AppendValue(dst []byte, v *Value) (out []byte, ok bool, err error) {
	if v.expr == nil {
		out, err = v.Render(sc, dst)
		return out, err == nil, err
	}
	return sc.AppendPlain(dst, v.expr)
}

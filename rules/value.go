package rules

import (
	"fmt"
)

// value is a compiled transform: an expression, or a mapping or list of values.
type value struct {
	expr    *expression
	prefix  [][]byte // of a mapping: {"name": or ,"name":
	names   []string
	items   []*value
	isList  bool
	hasOper bool
}

// value compiles a transform; parts that were reported are nil.
func (n *names) value(d *document, def *valueDef) *value {
	v := &value{isList: def.isList, names: def.names}
	if def.expr != nil {
		v.expr = n.compile(d, def.expr, wantAny)
		v.hasOper = v.expr.usesOperator()
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
		c := n.value(d, item)
		v.items = append(v.items, c)
		v.hasOper = v.hasOper || c.hasOper
	}
	return v
}

func (v *value) usesOperator() bool { return v != nil && v.hasOper }

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
		f, err := sc.field(sc.set.symbols[e.field].path)
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

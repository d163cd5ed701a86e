package doc

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/shared/spelling"
)

// Any converts a YAML value to its JSON form: nil, bool, json.Number (float64 if JSON writes it differently), string,
// []any, map[string]any.
func (d *Document) Any(n ast.Node, what string, depth int) (any, bool) {
	if depth > spelling.MaxDepth {
		d.FailAt(n, CodeTooLarge, "write it flatter", "nested deeper than %d", spelling.MaxDepth)
		return nil, false
	}
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		entries, ok := d.Entries(n, what)
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			if d.CutNumber(e) {
				return nil, false
			}
			v, vok := d.Any(e.Value, what, depth+1)
			m[e.Key.Value], ok = v, ok && vok
		}
		return m, ok
	case *ast.SequenceNode:
		list, ok := make([]any, len(n.Values)), true
		for i, item := range n.Values {
			v, vok := d.Any(item, what, depth+1)
			list[i], ok = v, ok && vok
		}
		return list, ok
	}
	s, ok := d.Scalar(n, what)
	if !ok {
		return nil, false
	}
	return s.native(), true
}

func (s *Scalar) native() any {
	switch s.Kind {
	case nullScalar:
		return nil
	case BoolScalar:
		return strings.EqualFold(s.Value, "true")
	case NumberScalar:
		text := strings.ReplaceAll(s.Value, "_", "")
		if json.Valid([]byte(text)) {
			return json.Number(text) // digit for digit
		}
		if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
		if i, err := strconv.ParseInt(text, 0, 64); err == nil {
			return float64(i)
		}
	}
	return s.Value
}

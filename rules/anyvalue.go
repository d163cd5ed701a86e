package rules

import (
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// any converts a YAML value into what JSON has: nil, bool, float64, string, []any, map[string]any.
func (d *document) any(n ast.Node, what string, depth int) (any, bool) {
	if depth > maxYAMLDepth {
		d.failAt(n, CodeTooLarge, "write it flatter", "nested deeper than %d", maxYAMLDepth)
		return nil, false
	}
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		entries, ok := d.entries(n, what)
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			if d.cutNumber(e) {
				return nil, false
			}
			v, vok := d.any(e.value, what, depth+1)
			m[e.key.value], ok = v, ok && vok
		}
		return m, ok
	case *ast.SequenceNode:
		list, ok := make([]any, len(n.Values)), true
		for i, item := range n.Values {
			v, vok := d.any(item, what, depth+1)
			list[i], ok = v, ok && vok
		}
		return list, ok
	}
	s, ok := d.scalar(n, what)
	if !ok {
		return nil, false
	}
	return s.native(), true
}

// native is a scalar as JSON has it.
func (s *scalar) native() any {
	switch s.kind {
	case nullScalar:
		return nil
	case boolScalar:
		return strings.EqualFold(s.value, "true")
	case numberScalar:
		text := strings.ReplaceAll(s.value, "_", "")
		if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
		if i, err := strconv.ParseInt(text, 0, 64); err == nil {
			return float64(i)
		}
	}
	return s.value
}

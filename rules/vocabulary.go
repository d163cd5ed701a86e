package rules

import (
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

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

// node is the list as a constant.
func (l *listDef) node() ast.Node {
	if l.onlyStr {
		return &ast.ConstantNode{Value: l.texts}
	}
	return &ast.ConstantNode{Value: l.values}
}

// lookup finds the type of a field; ok is false when a closed schema does not have it.
func (s *schemaDef) lookup(path []string) (fieldType, bool) {
	if s.fields == nil {
		return anyField, true
	}
	if t, ok := s.fields[strings.Join(path, ".")]; ok {
		return t, true
	}
	for i := len(path) - 1; i > 0; i-- {
		parent := path[:i]
		if t, ok := s.fields[strings.Join(parent, ".")]; ok {
			free := t == anyField || t == listField || (t == objectField && !s.hasDeeper(parent))
			return anyField, free || s.open
		}
	}
	return anyField, s.open
}

// hasDeeper reports whether the schema names fields below a path.
func (s *schemaDef) hasDeeper(path []string) bool {
	prefix := strings.Join(path, ".") + "."
	for f := range s.fields {
		if strings.HasPrefix(f, prefix) {
			return true
		}
	}
	return false
}

package expr

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/shared/spelling"
	"cellgate/rules/doc"
)

// List is a list of constants: texts and numbers.
type List struct {
	Texts   map[string]struct{} // the texts, and numbers as they are written
	values  []any
	OnlyStr bool
}

// Macro is an expression with a name.
type Macro struct {
	Name doc.Scalar
	Expr doc.Scalar
}

// Schema says what the payloads of a file's rules hold.
type Schema struct {
	EventAt []string // path of the event time; nil when not named
	Unit    TimeUnit
	Fields  map[string]FieldType // by path; nil when the schema names none
	Open    bool                 // other fields may be used too
}

// FieldType is what a schema says of a payload field.
type FieldType uint8

// The types.
const (
	AnyField FieldType = iota
	NumberField
	IntegerField
	TextField
	BoolField
	ListField
	ObjectField
)

// TimeUnit is the unit of an event time given as a number.
type TimeUnit uint8

// The units.
const (
	UnitAuto TimeUnit = iota
	UnitSeconds
	UnitMillis
)

// has reports whether a text is in the list.
func (l *List) has(text string) bool {
	_, ok := l.Texts[text]
	return ok
}

// Add adds a constant.
func (l *List) Add(s doc.Scalar) {
	l.Texts[s.Value] = struct{}{}
	if s.Kind == doc.NumberScalar {
		if v, err := strconv.ParseFloat(strings.ReplaceAll(s.Value, "_", ""), 64); err == nil {
			l.values, l.OnlyStr = append(l.values, v), false
			return
		}
	}
	l.values = append(l.values, s.Value)
}

// node is the list as a constant.
func (l *List) node() ast.Node {
	if l.OnlyStr {
		return &ast.ConstantNode{Value: l.Texts}
	}
	return &ast.ConstantNode{Value: l.values}
}

// lookup finds the type of a field; ok is false when a closed schema does not have it.
func (s *Schema) lookup(path []string) (FieldType, bool) {
	if s.Fields == nil {
		return AnyField, true
	}
	if t, ok := s.Fields[strings.Join(path, ".")]; ok {
		return t, true
	}
	for i := len(path) - 1; i > 0; i-- {
		parent := path[:i]
		if t, ok := s.Fields[strings.Join(parent, ".")]; ok {
			free := t == AnyField || t == ListField || (t == ObjectField && !s.hasDeeper(parent))
			return AnyField, free || s.Open
		}
	}
	return AnyField, s.Open
}

// hasDeeper reports whether the schema names fields below a path.
func (s *Schema) hasDeeper(path []string) bool {
	prefix := strings.Join(path, ".") + "."
	for f := range s.Fields {
		if strings.HasPrefix(f, prefix) {
			return true
		}
	}
	return false
}

// addToSchema is what to do about a field that a closed schema does not have.
const addToSchema = "add it to schema.fields, or set open: true there"

// nearest is the schema's field whose name is nearest to one that it does not have, "" when none is near.
func (s *Schema) nearest(name string) string {
	return spelling.Nearest(name, slices.Sorted(maps.Keys(s.Fields)))
}

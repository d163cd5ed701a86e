package expr

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/shared/spelling"
	"cellgate/rules/doc"
)

// List is a list of constants.
type List struct {
	Texts   map[string]struct{} // all values as written, for templates
	values  []any
	texts   map[string]struct{}
	ints    map[int]struct{}
	floats  map[float64]struct{}
	bools   map[bool]struct{}
	OnlyStr bool
}

// NewList returns an empty list.
func NewList() *List { return &List{Texts: map[string]struct{}{}, OnlyStr: true} }

// contains reports whether a value is one of the constants.
func (l *List) contains(v any) bool {
	ok := false
	switch v := v.(type) {
	case nil:
		return false
	case string:
		_, ok = l.texts[v]
		return ok
	case int:
		_, ok = l.ints[v]
	case float64:
		_, ok = l.floats[v]
	case bool:
		_, ok = l.bools[v]
	}
	if l.OnlyStr && len(l.values) > 0 {
		fail("the value is not a text, and the list holds texts")
	}
	return ok
}

func (l *List) add(v any) {
	l.values = append(l.values, v)
	switch v := v.(type) {
	case string:
		put(&l.texts, v)
		return
	case int:
		put(&l.ints, v)
	case float64:
		put(&l.floats, v)
	case bool:
		put(&l.bools, v)
	}
	l.OnlyStr = false
}

func put[K comparable](m *map[K]struct{}, k K) {
	if *m == nil {
		*m = map[K]struct{}{}
	}
	(*m)[k] = struct{}{}
}

// Macro is a named expression.
type Macro struct {
	Name doc.Scalar
	Expr doc.Scalar
}

// Schema describes the payloads of a file's rules.
type Schema struct {
	EventAt []string // path of the event time; nil if there is none
	Unit    TimeUnit
	Fields  map[string]FieldType // by path; nil if the schema has no fields
	Bounds  map[string]*Bounds   // by path
	Open    bool                 // other fields are allowed
}

// Bounds are the allowed range of a number.
type Bounds struct {
	Low, High float64
	// Missing means that a number outside the range counts as missing; otherwise it is an error.
	Missing bool
}

// check reports whether a value is a number in the range. A number outside is missing or an error.
func (b *Bounds) check(s *Symbol, v any) (within bool, err error) {
	f, isNumber := float(v)
	switch {
	case !isNumber || f >= b.Low && f <= b.High:
		return true, nil
	case b.Missing:
		return false, nil
	}
	return false, fmt.Errorf("%w: %s is outside the bounds of the schema", ErrEvaluation, FieldKey("payload", s.Path))
}

// FieldType is the type of a payload field in a schema.
type FieldType uint8

// Field types.
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

// Units of event times.
const (
	UnitAuto TimeUnit = iota
	UnitSeconds
	UnitMillis
)

func (l *List) has(text string) bool {
	_, ok := l.Texts[text]
	return ok
}

// Add adds a constant from a file.
func (l *List) Add(s doc.Scalar) {
	l.Texts[s.Value] = struct{}{}
	switch s.Kind {
	case doc.NumberScalar:
		if v, ok := literal(s.Value); ok {
			l.add(v)
			return
		}
	case doc.BoolScalar:
		l.add(strings.EqualFold(s.Value, "true"))
		return
	}
	l.add(s.Value)
}

// node returns the list as a constant.
func (l *List) node() ast.Node {
	if l.OnlyStr {
		return &ast.ConstantNode{Value: l.Texts}
	}
	return &ast.ConstantNode{Value: l.values}
}

// lookup returns the type of a field; ok is false if a closed schema does not have it.
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

// addToSchema is the suggestion for a field that a closed schema does not have.
const addToSchema = "add it to schema.fields, or set open: true there"

// nearest returns the schema's field with the most similar name, "" if none is similar.
func (s *Schema) nearest(name string) string {
	return spelling.Nearest(name, slices.Sorted(maps.Keys(s.Fields)))
}

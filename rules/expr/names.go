package expr

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr/types"

	"cellgate/rules/doc"
)

// MaxPath bounds the depth of payload fields in expressions and the nesting of a transform.
const MaxPath = 32

// symbolKind is the source of a name's value.
type symbolKind uint8

const (
	symVIN symbolKind = iota + 1
	symCell
	symTopic
	symClass
	symLevels
	symLevel // levels[n]
	symQoS
	symRetain
	symReceivedAt
	symEventAt
	symLateMS
	symRaw
	symPayload    // the whole payload
	symField      // payload.a.b
	symProperties // all user properties
	symProperty   // properties.x
	symOperator   // operator.x
	symItem       // item, item.x
)

// Symbol is a name that an expression of a set uses. Its key is its name in the environment of expr's virtual machine:
// one flat map, so that payload.a.b is one lookup.
type Symbol struct {
	key   string
	kind  symbolKind
	Path  []string // symField: path in the payload; symProperty, symOperator: the name; symItem: path in the element
	level int      // symLevel
	index uint16   // in Symbols
	field FieldType
	// bounds are the schema's bounds of a number; nil if there are none.
	bounds *Bounds
	unit   TimeUnit
	when   []string // symEventAt, symLateMS: path of the event time; nil if the schema has none
}

// decodes reports whether the symbol's value comes from the payload.
func (s *Symbol) decodes() bool {
	return s.kind == symPayload || s.kind == symField || s.kind == symItem || s.when != nil
}

// withoutMessage reports whether the symbol has a value at the end of a period too.
func (s *Symbol) withoutMessage() bool {
	switch s.kind {
	case symVIN, symCell, symReceivedAt, symOperator:
		return true
	}
	return false
}

// name returns the name as an analyst writes it.
func (s *Symbol) name() string {
	name, _, _ := strings.Cut(s.key, " ")
	return name
}

// WhatOperatorsGive returns the default transform of a rule that sends at the end of a period, when there is no
// payload.
func (n *Names) WhatOperatorsGive() *Tree {
	t := &Tree{}
	add := func(name, expr string) {
		t.Names = append(t.Names, name)
		t.Items = append(t.Items, &Tree{Expr: &doc.Scalar{Value: expr, Lines: []string{expr}}})
	}
	add("vin", "vin")
	for _, name := range n.Operators {
		add(name, "operator."+name)
	}
	if !slices.Contains(n.Operators, "end") {
		add("at", "received_at")
	}
	return t
}

// Symbols are the distinct names in a set's expressions.
type Symbols struct {
	List  []Symbol
	ByKey map[string]uint16
	lists map[*any]Test // values of named lists, prepared for tests
	// columns are sets of table keys by test, tableKeys is their total size.
	columns   map[string]map[string]struct{}
	tableKeys int
}

// maxSymbols bounds the distinct names in a set.
const maxSymbols = 60_000

func (t *Symbols) add(s Symbol) (uint16, bool) {
	if i, ok := t.ByKey[s.key]; ok {
		return i, true
	}
	if len(t.List) >= maxSymbols {
		return 0, false
	}
	i := uint16(len(t.List)) //nolint:gosec // bounded above
	s.index = i
	t.List = append(t.List, s)
	t.ByKey[s.key] = i
	return i, true
}

// baseNames are the built-in names in expressions, with the kinds of those that may stand alone.
var baseNames = map[string]symbolKind{
	"vin": symVIN, "cell": symCell, "topic": symTopic, "class": symClass, "levels": symLevels, "qos": symQoS,
	"retain": symRetain, "received_at": symReceivedAt, "event_at": symEventAt, "late_ms": symLateMS,
	"payload": symPayload, "raw": symRaw, "properties": symProperties, "operator": symOperator,
}

func baseNameList() []string {
	names := make([]string, 0, len(baseNames))
	for n := range baseNames {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

var keywords = []string{
	"let", "in", "not", "and", "or", "matches", "contains", "startsWith", "endsWith", "true", "false", "nil",
	"null", "if", "else", "one_of",
}

// IsReserved reports whether a name has a built-in meaning in expressions.
func IsReserved(name string) bool {
	return baseNames[name] != 0 || slices.Contains(keywords, name) || isFunction(name) || deniedFunctions[name] != ""
}

// boundFunctions are the functions bound to a file or the configuration.
var boundFunctions = map[string]bool{"hash": true, "at_zone": true, "inside": true}

const (
	whyLoop    = "it loops over a list of any length"
	whyClock   = "it reads the clock of the machine, and a rule must give the same result in a replay; use received_at"
	whyGrows   = "its result can be far larger than the message"
	whyOrder   = "its elements have no fixed order"
	whyMachine = "its result depends on the machine it runs on"
)

// deniedFunctions are the other functions of expr, with the reason why rules must not use them.
var deniedFunctions = map[string]string{
	"all": whyLoop, "none": whyLoop, "any": whyLoop, "one": whyLoop, "filter": whyLoop, "map": whyLoop,
	"find": whyLoop, "findIndex": whyLoop, "findLast": whyLoop, "findLastIndex": whyLoop, "count": whyLoop,
	"groupBy": whyLoop, "sortBy": whyLoop, "reduce": whyLoop, "uniq": whyLoop, "sort": whyLoop,
	"flatten": whyLoop, "now": whyClock, "date": whyMachine, "timezone": whyMachine, "repeat": whyGrows,
	"replace": whyGrows, "join": whyGrows, "concat": whyGrows, "splitAfter": whyGrows, "reverse": whyLoop,
	"keys": whyOrder, "values": whyOrder, "toPairs": whyOrder, "fromPairs": whyOrder, "take": whyLoop,
	"fromJSON": whyGrows, "fromBase64": whyGrows,
}

// FieldKey returns the flat name of a payload field.
func FieldKey(base string, path []string) string {
	var b strings.Builder
	b.WriteString(base)
	for _, p := range path {
		if doc.ValidName(p) {
			b.WriteString("." + p)
		} else {
			b.WriteString("[" + strconv.Quote(p) + "]")
		}
	}
	return b.String()
}

// exprType returns the type of a symbol for type checking.
func (s *Symbol) exprType() types.Type {
	switch s.kind {
	case symVIN, symCell, symTopic, symClass, symRaw:
		return types.String
	case symQoS:
		return types.Int
	case symRetain:
		return types.Bool
	case symReceivedAt:
		return types.TypeOf(time.Time{})
	case symEventAt:
		if s.when != nil {
			return types.TypeOf(time.Time{})
		}
	case symLateMS:
		if s.when != nil {
			return types.Int
		}
	case symLevels:
		return types.TypeOf([]any{})
	case symField:
		return s.field.exprType()
	}
	return types.Any
}

func (f FieldType) exprType() types.Type {
	switch f {
	case NumberField:
		return types.Float64
	case IntegerField:
		return types.Int
	case TextField:
		return types.String
	case BoolField:
		return types.Bool
	case ListField:
		return types.TypeOf([]any{})
	case ObjectField:
		return types.TypeOf(map[string]any{})
	default:
		return types.Any
	}
}

package expr

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
	"github.com/valyala/fastjson"

	"cellgate/broker/shared/message"
)

// Scope holds one record for the expressions of a set: names get their values when an expression asks
// for them, the payload is parsed when the first one asks for a field. It belongs to one goroutine and is
// used for one record after another without allocating.
type Scope struct {
	cell    string
	symbols []Symbol
	Record  *message.Record
	VIN     string
	class   string
	Given   []Given // the values of the operators of the rule at hand

	gen    uint64   // counts records
	filled []uint64 // by symbol: the gen for which env has its value
	env    map[string]any
	vm     vm.VM

	parser  fastjson.Parser
	doc     *fastjson.Value
	parsed  uint64 // the gen for which doc or docErr is valid
	DocErr  error
	boxes   boxes
	looked  []uint64 // by symbol: the gen for which seen has its value
	seen    []Seen
	walked  uint64   // the gen for which Spot has gone through the payload
	spotted []uint64 // by symbol: the gen for which items has its field
	items   []*fastjson.Value
	names   map[string]string // payload field names that have become strings
	order   []string          // those of the last object whose fields were taken, in its order
	scratch []byte
}

// NewScope makes a scope for expressions that were compiled with the symbols.
func NewScope(cell string, symbols []Symbol) *Scope {
	sc := &Scope{cell: cell, symbols: symbols, filled: make([]uint64, len(symbols)), env: make(map[string]any, len(symbols))}
	for i := range symbols {
		sc.env[symbols[i].key] = nil
	}
	return sc
}

// Begin turns to a record. Nothing of it is kept after end.
func (sc *Scope) Begin(rec *message.Record) {
	sc.gen++
	sc.Record, sc.Given = rec, nil
	vin, branch, rest := message.SplitTopic(rec.Topic)
	sc.VIN, sc.class = vin, ""
	if branch == "up" {
		sc.class = rest
	}
}

// Again points to a record that was begun before and may since have moved in memory.
func (sc *Scope) Again(rec *message.Record) { sc.Record, sc.Given = rec, nil }

// errNotBool is a condition that gives neither true nor false nor nil.
var errNotBool = errors.New("a condition must give true or false")

// Test evaluates a condition: nil is false.
func (sc *Scope) Test(e *Expression) (bool, error) {
	v, err := sc.Run(e)
	switch v := v.(type) {
	case bool:
		return v, err
	case nil:
		return false, err
	}
	return false, fmt.Errorf("%w, this gives %s: %s", errNotBool, typeOf(v), e.Text)
}

// Number evaluates an expression that is to give a number; ok is false for nil.
func (sc *Scope) Number(e *Expression) (v float64, ok bool, err error) {
	got, err := sc.Run(e)
	if err != nil || got == nil {
		return 0, false, err
	}
	switch n := got.(type) {
	case float64:
		v = n
	case int:
		v = float64(n)
	default:
		return 0, false, fmt.Errorf("%s gives %s where a number is needed", e.Text, typeOf(got))
	}
	return v, !math.IsNaN(v) && !math.IsInf(v, 0), nil
}

// Run evaluates an expression. Values that it gives may be kept; they alias nothing.
func (sc *Scope) Run(e *Expression) (any, error) {
	for _, i := range e.symbols {
		s := &sc.symbols[i]
		if sc.filled[i] == sc.gen && s.kind != symOperator {
			continue
		}
		v, err := sc.value(s)
		if err != nil {
			return nil, err
		}
		sc.env[s.key], sc.filled[i] = v, sc.gen
	}
	v, err := sc.vm.Run(e.program, sc.env)
	if err != nil {
		return nil, evalError(e, err)
	}
	return v, nil
}

// ErrEvaluation is wrapped by the errors of expressions that cannot be evaluated on a message.
var ErrEvaluation = errors.New("the expression cannot be evaluated")

// evalError says what failed without quoting values of the message.
func evalError(e *Expression, err error) error {
	message := err.Error()
	var fe *file.Error
	if errors.As(err, &fe) {
		message = fe.Message
	}
	return fmt.Errorf("%w: %s: %s", ErrEvaluation, shorten(e.Text), safeMessage(message))
}

// shorten keeps an expression short enough for a header.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// operandTypes is how expr says at run time that an operation does not fit its operands.
var operandTypes = regexp.MustCompile(`^invalid operation: ([][{}.a-zA-Z0-9 ]+) ([^a-zA-Z0-9 ]+) ([][{}.a-zA-Z0-9 ]+)$`)

// safeMessage puts expr's messages into words and blots out quoted values.
func safeMessage(m string) string {
	var from, to string
	if p := operandTypes.FindStringSubmatch(m); p != nil {
		return fmt.Sprintf("%s does not work between %s and %s", p[2], typeWord(p[1]), typeWord(p[3]))
	}
	switch {
	case strings.HasPrefix(m, "interface conversion:"):
		if n, _ := fmt.Sscanf(m[strings.LastIndex(m, "is ")+3:], "%s not %s", &from, &to); n == 2 {
			from = strings.TrimSuffix(from, ",")
			return fmt.Sprintf("%s where %s is needed", typeWord(from), typeWord(to))
		}
	case strings.HasPrefix(m, "reflect.Value.MapIndex"):
		return "the value is not a text, and the list holds texts"
	case strings.HasPrefix(m, "invalid operation: int("), strings.HasPrefix(m, "invalid operation: float("):
		return "the text is not a number"
	case strings.HasPrefix(m, "cannot fetch "):
		return "there is no such field or element"
	}
	if i := strings.IndexByte(m, '"'); i >= 0 {
		if j := strings.LastIndexByte(m, '"'); j > i {
			m = m[:i] + "…" + m[j+1:]
		}
	}
	if len(m) > 200 {
		m = strings.ToValidUTF8(m[:200], "")
	}
	return m
}

// boxes keeps values that have been put into interfaces, so that the same number or short text, which
// telemetry repeats all the time, is not allocated for every message.
type boxes struct {
	numbers [512]struct {
		bits uint64
		box  any
	}
	texts [512]struct {
		text string
		box  any
	}
}

// maxBoxedText is the longest text that is kept.
const maxBoxedText = 64

func (b *boxes) number(f float64) any {
	bits := math.Float64bits(f)
	slot := &b.numbers[(bits*0x9E3779B97F4A7C15)>>55]
	if slot.box == nil || slot.bits != bits {
		slot.bits, slot.box = bits, f
	}
	return slot.box
}

// text boxes a text given as bytes, which it copies.
func (b *boxes) text(t []byte) any {
	if len(t) > maxBoxedText {
		return string(t)
	}
	slot := &b.texts[message.Hash(t)>>55]
	if slot.box == nil || slot.text != string(t) {
		slot.text = string(t)
		slot.box = slot.text
	}
	return slot.box
}

// Given is a value that an operator gives to templates and transforms as operator.name.
type Given struct {
	Name  string
	Value any
}

// ErrRender is wrapped by errors of messages that cannot be made of this record.
var ErrRender = errors.New("the message cannot be made")

// HashValue is the digest of a value's JSON.
func (sc *Scope) HashValue(v any) uint64 {
	sc.scratch = AppendJSON(sc.scratch[:0], v)
	return message.Hash(sc.scratch)
}

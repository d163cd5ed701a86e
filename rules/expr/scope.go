package expr

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
	"github.com/valyala/fastjson"

	"cellgate/broker/shared/message"
)

// Scope has one record for the expressions of a set. Names are evaluated when an expression uses them; the payload is
// parsed when a field is first used. A Scope belongs to one goroutine and is reused for many records without
// allocating.
type Scope struct {
	cell    string
	symbols []Symbol
	Record  *message.Record
	VIN     string
	class   string
	item    *fastjson.Value // current element of the current rule's list
	Given   []Given         // operators' values of the current rule

	gen    uint64   // generation: counts records
	filled []uint64 // by symbol: the gen for which env has its value
	sizes  []int    // by symbol: sizeOf its value in env
	left   work     // work left for the current rule or message
	env    map[string]any
	vm     vm.VM

	parser   fastjson.Parser
	doc      *fastjson.Value
	parsed   uint64 // the gen for which doc or docErr is valid
	DocErr   error
	fields   *fieldIndex
	looked   []uint64 // by symbol: the gen for which seen has its value
	seen     []Seen
	own      fastjson.Parser // for values that operators have kept
	boxes    boxes
	names    map[string]string // interned payload field names
	order    []string          // field names of the last object, in its order
	distinct int               // the number of names at the start of order that are known to be distinct
	scratch  []byte
	digits   []byte
}

// NewScope returns a scope for expressions compiled with the symbols.
func NewScope(cell string, symbols []Symbol) *Scope {
	sc := &Scope{
		cell: cell, symbols: symbols, filled: make([]uint64, len(symbols)), sizes: make([]int, len(symbols)),
		env: make(map[string]any, len(symbols)+1), fields: newFieldIndex(symbols),
	}
	sc.env[workName], sc.left = &sc.left, maxWork
	for i := range symbols {
		sc.env[symbols[i].key] = nil
	}
	return sc
}

// Begin sets the current record.
func (sc *Scope) Begin(rec *message.Record) {
	sc.gen++
	sc.Record, sc.item = rec, nil
	sc.BeginRule()
	vin, branch, rest := message.SplitTopic(rec.Topic)
	sc.VIN, sc.class = vin, ""
	if rec.Kind == message.KindTick {
		sc.VIN = rec.VIN()
	}
	if branch == "up" {
		sc.class = rest
	}
}

// errNotBool means that a condition returned neither true, false nor nil.
var errNotBool = errors.New("a condition must give true or false")

// Test evaluates a condition. nil counts as false.
func (sc *Scope) Test(e *Expression) (bool, error) {
	holds, _, err := sc.Holds(e)
	return holds, err
}

// Holds evaluates a condition. known is false if the result is nil: a condition compiled with WantKnown is unknown if a
// field is missing.
func (sc *Scope) Holds(e *Expression) (holds, known bool, err error) {
	v, err := sc.Run(e)
	switch v := v.(type) {
	case bool:
		return v, true, err
	case nil:
		return false, false, err
	}
	return false, false, fmt.Errorf("%w, this gives %s: %s", errNotBool, typeOf(v), e.Text)
}

// Number evaluates an expression that must give a number; ok is false for nil.
func (sc *Scope) Number(e *Expression) (v float64, ok bool, err error) {
	got, err := sc.Run(e)
	if err != nil || got == nil {
		return 0, false, err
	}
	if v, ok = float(got); !ok {
		return 0, false, fmt.Errorf("%s gives %s where a number is needed", e.Text, typeOf(got))
	}
	return v, true, nil
}

// Run evaluates an expression. The caller may keep the result; it aliases nothing.
func (sc *Scope) Run(e *Expression) (any, error) {
	if sc.left < 0 {
		return nil, errWork
	}
	size := 0
	for _, i := range e.symbols {
		s := &sc.symbols[i]
		if sc.filled[i] != sc.gen || s.kind == symOperator || s.kind == symItem {
			v, err := sc.value(s)
			if err != nil {
				return nil, err
			}
			sc.env[s.key], sc.filled[i], sc.sizes[i] = v, sc.gen, sizeOf(v)
			if s.kind == symPayload {
				sc.sizes[i] += len(sc.Record.Payload)
			}
		}
		size += sc.sizes[i]
	}
	v, err := sc.vm.Run(e.program, sc.env)
	if err != nil {
		return nil, evalError(e, err)
	}
	// Charged afterwards: one expression alone never exceeds the limit, so repeated evaluation changes no result.
	sc.left.spend(e.calls * size)
	return v, nil
}

// ErrEvaluation is wrapped by the errors of expressions that cannot be evaluated for a message.
var ErrEvaluation = errors.New("the expression cannot be evaluated")

// evalError returns an error that quotes no values of the message.
func evalError(e *Expression, err error) error {
	message := err.Error()
	var fe *file.Error
	if errors.As(err, &fe) {
		message = fe.Message
	}
	return fmt.Errorf("%w: %s: %s", ErrEvaluation, shorten(e.Text), safeMessage(message))
}

// shorten cuts an expression to fit into a header.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// safeMessage rewords expr's messages and removes quoted values.
func safeMessage(m string) string {
	var from, to string
	if strings.HasPrefix(m, "interface conversion:") {
		if n, _ := fmt.Sscanf(m[strings.LastIndex(m, "is ")+3:], "%s not %s", &from, &to); n == 2 {
			from = strings.TrimSuffix(from, ",")
			return fmt.Sprintf("%s where %s is needed", typeWord(from), typeWord(to))
		}
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

// boxes caches values in interfaces, so that numbers and short texts, which telemetry repeats, are not allocated for
// every message.
type boxes struct {
	numbers [512]struct {
		bits uint64
		box  any
	}
	ints [512]struct {
		n   int
		box any
	}
	texts [512]struct {
		text string
		box  any
	}
}

// maxBoxedText bounds the texts that are cached, in bytes.
const maxBoxedText = 64

func (b *boxes) number(f float64) any {
	bits := math.Float64bits(f)
	slot := &b.numbers[(bits*0x9E3779B97F4A7C15)>>55]
	if slot.box == nil || slot.bits != bits {
		slot.bits, slot.box = bits, f
	}
	return slot.box
}

func (b *boxes) int(n int) any {
	slot := &b.ints[(uint64(n)*0x9E3779B97F4A7C15)>>55] //nolint:gosec // a hash
	if slot.box == nil || slot.n != n {
		slot.n, slot.box = n, n
	}
	return slot.box
}

// text returns a text from bytes, which it copies.
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

// Given is an operator's value, operator.name in templates and transforms.
type Given struct {
	Name  string
	Value any
}

// ErrRender is wrapped by errors about messages that cannot be rendered from a record.
var ErrRender = errors.New("the message cannot be built")

// HashValue returns the digest of a value from PassOn. Equal values have equal digests in any notation.
func (sc *Scope) HashValue(v any) (uint64, error) {
	v, err := sc.exact(v)
	sc.scratch = AppendJSON(sc.scratch[:0], v)
	return message.Hash(sc.scratch), err
}

// exact replaces payload values by their meaning, digit for digit.
func (sc *Scope) exact(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case *fastjson.Value:
		return sc.native(v, true)
	case RawJSON:
		if len(v) == 0 {
			return nil, nil //nolint:nilnil // nothing
		}
		item, err := sc.own.ParseBytes(v)
		if err != nil {
			return nil, err
		}
		return sc.native(item, true)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			if out[i], err = sc.exact(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for name := range v {
			if out[name], err = sc.exact(v[name]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

package expr

import "github.com/valyala/fastjson"

// Kind is a set of kinds of value.
type Kind uint8

// Kinds of value. OtherKind denotes values that only the virtual machine can compare, and for errors.
const (
	Missing Kind = 1 << iota
	NumberKind
	TextKind
	BoolKind
	OtherKind

	anyScalar = Missing | NumberKind | TextKind | BoolKind
)

// Seen is the value of a name for the current record.
type Seen struct {
	Number float64
	Text   string
	Kind   Kind
	Bool   bool
}

// Look returns the value of a symbol for the current record, evaluated once. Fields of a payload that cannot be decoded
// are OtherKind.
func (sc *Scope) Look(symbol uint16) *Seen {
	if sc.looked == nil {
		sc.looked, sc.seen = make([]uint64, len(sc.symbols)), make([]Seen, len(sc.symbols))
	}
	v := &sc.seen[symbol]
	if sc.looked[symbol] != sc.gen {
		sc.looked[symbol] = sc.gen
		sc.look(&sc.symbols[symbol], v)
	}
	return v
}

func (sc *Scope) look(s *Symbol, v *Seen) {
	switch s.kind {
	case symVIN:
		*v = Seen{Kind: TextKind, Text: sc.VIN}
	case symTopic:
		*v = Seen{Kind: TextKind, Text: sc.Record.Topic}
	case symClass:
		*v = Seen{Kind: TextKind, Text: sc.class}
	case symField:
		sc.lookField(s, v)
	default:
		value, err := sc.value(s)
		v.set(value, err)
	}
}

// lookField looks at a payload field. It does not put numbers into an interface, which would allocate.
func (sc *Scope) lookField(s *Symbol, v *Seen) {
	item, err := sc.field(s.index)
	switch {
	case err == nil && item == nil:
		*v = Seen{Kind: Missing}
	case err == nil && item.Type() == fastjson.TypeNumber && s.bounds == nil:
		sc.digits = item.MarshalTo(sc.digits[:0])
		i, f, whole, ok := readNumber(sc.digits)
		if whole {
			f = float64(i)
		}
		*v = Seen{Kind: NumberKind, Number: f}
		if !ok || !exact(f) || s.field == IntegerField && !whole {
			v.Kind = OtherKind
		}
	case err == nil && (item.Type() == fastjson.TypeObject || item.Type() == fastjson.TypeArray):
		*v = Seen{Kind: OtherKind}
	default:
		var value any
		if err == nil {
			value, err = sc.typed(s, item)
		}
		v.set(value, err)
	}
}

// set sets a value in the form that the virtual machine uses.
func (v *Seen) set(value any, err error) {
	*v = Seen{Kind: OtherKind}
	if err != nil {
		return
	}
	switch value := value.(type) {
	case nil:
		v.Kind = Missing
	case string:
		v.Kind, v.Text = TextKind, value
	case bool:
		v.Kind, v.Bool = BoolKind, value
	case int, float64:
		if f, _ := float(value); exact(f) {
			v.Kind, v.Number = NumberKind, f
		}
	}
}

// IsField reports whether a symbol is a payload field.
func (s *Symbol) IsField() bool { return s.kind == symField }

// Fields returns the payload fields that the expression names.
func (e *Expression) Fields(symbols []Symbol) (out []uint16) {
	for _, i := range e.symbols {
		if symbols[i].IsField() {
			out = append(out, i)
		}
	}
	return out
}

// Decodes reports whether the expression needs the payload decoded.
func (e *Expression) Decodes(symbols []Symbol) bool {
	for _, i := range e.symbols {
		if symbols[i].decodes() {
			return true
		}
	}
	return false
}

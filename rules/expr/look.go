package expr

import (
	"math"

	"github.com/valyala/fastjson"
)

// Kind is a set of kinds of value.
type Kind uint8

// The kinds. OtherKind is what only the virtual machine knows to compare, and a value that is an error.
const (
	Missing Kind = 1 << iota
	NumberKind
	TextKind
	BoolKind
	OtherKind

	anyScalar = Missing | NumberKind | TextKind | BoolKind
)

// Seen is the value of a name for the record at hand.
type Seen struct {
	Number float64
	Text   string
	Kind   Kind
	Bool   bool
}

// Look returns the value of a symbol for the record at hand, worked out once. Fields of a payload that cannot be decoded are
// OtherKind.
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

// lookField looks at a payload field. Numbers are read without being put into an interface, which would take memory.
func (sc *Scope) lookField(s *Symbol, v *Seen) {
	item, err := sc.item(s)
	switch {
	case err == nil && item == nil:
		*v = Seen{Kind: Missing}
	case err == nil && item.Type() == fastjson.TypeNumber:
		f, err := item.Float64()
		*v = Seen{Kind: NumberKind, Number: f}
		if err != nil || !(math.Abs(f) < maxExact) || s.field == IntegerField && f != math.Trunc(f) {
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

// set takes a value as the virtual machine gets it.
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
	case int:
		if f := float64(value); math.Abs(f) < maxExact {
			v.Kind, v.Number = NumberKind, f
		}
	}
}

// Paths finds the fields that expressions name in a payload, going once through it.
type Paths struct {
	symbols []uint16 // of the field itself
	next    map[string]*Paths
}

// NewPaths makes the paths of all payload fields among the symbols.
func NewPaths(symbols []Symbol) *Paths {
	root := &Paths{}
	for i := range symbols {
		if symbols[i].kind != symField {
			continue
		}
		at := root
		for _, step := range symbols[i].Path {
			if at.next == nil {
				at.next = map[string]*Paths{}
			}
			if at.next[step] == nil {
				at.next[step] = &Paths{}
			}
			at = at.next[step]
		}
		at.symbols = append(at.symbols, uint16(i))
	}
	return root
}

// IsField reports whether a symbol is a payload field.
func (s *Symbol) IsField() bool { return s.kind == symField }

// Decodes reports whether the expression needs the payload decoded.
func (e *Expression) Decodes(symbols []Symbol) bool {
	for _, i := range e.symbols {
		if symbols[i].decodes() {
			return true
		}
	}
	return false
}

// Spot goes through the payload and appends the symbols of the fields that it has. They are those of value and Look from
// then on, those of other fields are missing.
func (sc *Scope) Spot(p *Paths, out []uint16) ([]uint16, error) {
	doc, err := sc.Document()
	if err != nil {
		return out, err
	}
	if sc.spotted == nil {
		sc.spotted, sc.items = make([]uint64, len(sc.symbols)), make([]*fastjson.Value, len(sc.symbols))
	}
	sc.walked = sc.gen
	return sc.spot(p, doc, out), nil
}

func (sc *Scope) spot(p *Paths, v *fastjson.Value, out []uint16) []uint16 {
	for _, s := range p.symbols {
		if sc.spotted[s] == sc.gen {
			return out // a name that is there twice: the first counts
		}
		sc.spotted[s], sc.items[s] = sc.gen, v
		out = append(out, s)
	}
	if len(p.next) == 0 {
		return out
	}
	switch v.Type() {
	case fastjson.TypeObject:
		o, _ := v.Object() //nolint:errcheck // it is one
		o.Visit(func(key []byte, item *fastjson.Value) {
			if next := p.next[string(key)]; next != nil {
				out = sc.spot(next, item, out)
			}
		})
	case fastjson.TypeArray:
		for step, next := range p.next {
			if item := v.Get(step); item != nil {
				out = sc.spot(next, item, out)
			}
		}
	}
	return out
}

// item is the field of the payload that a symbol names, the payload itself for payload.
func (sc *Scope) item(s *Symbol) (*fastjson.Value, error) {
	if sc.walked != sc.gen || s.kind != symField {
		return sc.field(s.Path)
	}
	if sc.spotted[s.index] != sc.gen {
		return nil, nil //nolint:nilnil // missing
	}
	return sc.items[s.index], nil
}

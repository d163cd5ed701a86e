package expr

import (
	"strconv"

	"github.com/valyala/fastjson"
)

// fieldIndex finds all payload fields that the expressions of a set name in one pass over a payload. Where an object has a name
// more than once the last one counts, as it does for nearly everybody who reads the message behind us (RFC 8259, 4 leaves it
// open). It belongs to one scope.
type fieldIndex struct {
	nodes []fieldNode
	at    []int32 // by symbol: its node; -1 for none
	gen   uint64  // the record whose fields are found
	found []int32 // nodes that are there, some twice
}

// fieldNode is a payload field that is named, or one on the way to it. Node 0 is the whole payload.
type fieldNode struct {
	children map[string]int32
	elements []listElement // children whose names are indexes of a list
	symbols  []uint16      // of the field
	value    *fastjson.Value
	gen      uint64  // the record that value is of
	listed   uint64  // the record in whose found the node is
	order    []place // of the last object's names
}

type listElement struct {
	index int
	node  int32
}

// place remembers what a name at a place of an object led to: a vehicle writes its fields in one order, as do most of its kind.
type place struct {
	name string
	node int32
}

// What a place may lead to beside a node.
const (
	noField = -1 - iota // a name that nobody asks for
	unknown             // no name has been there
)

func newFieldIndex(symbols []Symbol) *fieldIndex {
	x := &fieldIndex{nodes: make([]fieldNode, 1), at: make([]int32, len(symbols))}
	for i := range symbols {
		x.at[i] = noField
		if k := symbols[i].kind; k == symField || k == symPayload {
			x.at[i] = x.add(symbols[i].Path)
			if k == symField {
				n := &x.nodes[x.at[i]]
				n.symbols = append(n.symbols, uint16(i)) //nolint:gosec // a symbol
			}
		}
	}
	return x
}

func (x *fieldIndex) add(path []string) int32 {
	at := int32(0)
	for _, step := range path {
		next, ok := x.nodes[at].children[step]
		if !ok {
			next = int32(len(x.nodes)) //nolint:gosec // at most 60,000 symbols of 32 steps
			x.nodes = append(x.nodes, fieldNode{})
			n := &x.nodes[at]
			if n.children == nil {
				n.children = map[string]int32{}
			}
			n.children[step] = next
			if i, err := strconv.Atoi(step); err == nil && i >= 0 {
				n.elements = append(n.elements, listElement{i, next})
			}
		}
		at = next
	}
	return at
}

// field is the value of a symbol that is a field of the payload, nil when there is none.
func (sc *Scope) field(symbol uint16) (*fastjson.Value, error) {
	x := sc.fields
	if err := sc.findFields(); err != nil {
		return nil, err
	}
	at := x.at[symbol]
	if at == noField || x.nodes[at].gen != sc.gen {
		return nil, nil //nolint:nilnil // missing
	}
	return x.nodes[at].value, nil
}

// findFields goes through the payload, once for a record.
func (sc *Scope) findFields() error {
	x := sc.fields
	if x.gen == sc.gen {
		return nil
	}
	doc, err := sc.Document()
	if err != nil {
		return err
	}
	x.gen, x.found = sc.gen, x.found[:0]
	sc.find(0, doc)
	return nil
}

// Spot appends the symbols of the fields that the payload has.
func (sc *Scope) Spot(out []uint16) ([]uint16, error) {
	if err := sc.findFields(); err != nil {
		return out, err
	}
	for _, at := range sc.fields.found {
		if n := &sc.fields.nodes[at]; n.gen == sc.gen {
			out = append(out, n.symbols...)
		}
	}
	return out, nil
}

// find gives a node its value, and those below it theirs.
func (sc *Scope) find(at int32, v *fastjson.Value) {
	n := &sc.fields.nodes[at]
	if n.gen == sc.gen {
		sc.fields.forget(n) // the name was there before
	}
	if n.value, n.gen = v, sc.gen; n.symbols != nil && n.listed != sc.gen {
		n.listed = sc.gen
		sc.fields.found = append(sc.fields.found, at)
	}
	switch {
	case n.children == nil:
	case v.Type() == fastjson.TypeObject:
		o, _ := v.Object()
		i := 0
		o.Visit(func(key []byte, item *fastjson.Value) {
			if child := sc.childAt(n, i, key); child != noField {
				sc.find(child, item)
			}
			i++
		})
	case v.Type() == fastjson.TypeArray:
		items, _ := v.Array()
		for _, e := range n.elements {
			if e.index < len(items) {
				sc.find(e.node, items[e.index])
			}
		}
	}
}

// forget takes the values of all below a node away.
func (x *fieldIndex) forget(n *fieldNode) {
	for _, child := range n.children {
		c := &x.nodes[child]
		if c.gen == n.gen {
			x.forget(c)
			c.gen = 0
		}
	}
}

// childAt is the node of a name at a place of an object.
func (sc *Scope) childAt(n *fieldNode, i int, key []byte) int32 {
	if i < len(n.order) && n.order[i].node != unknown && n.order[i].name == string(key) {
		return n.order[i].node
	}
	child, ok := n.children[string(key)]
	if !ok {
		child = noField
	}
	if i < maxFields && len(key) <= maxBoxedText {
		for len(n.order) <= i {
			n.order = append(n.order, place{node: unknown})
		}
		n.order[i] = place{sc.name(key), child}
	}
	return child
}

// fieldBelow is the field of a payload at a path; nil when there is none, or no payload.
func fieldBelow(v *fastjson.Value, path []string) *fastjson.Value {
	for _, step := range path {
		if v == nil {
			return nil
		}
		var next *fastjson.Value
		switch v.Type() {
		case fastjson.TypeObject:
			o, _ := v.Object()
			o.Visit(func(key []byte, item *fastjson.Value) {
				if string(key) == step {
					next = item
				}
			})
		case fastjson.TypeArray:
			items, _ := v.Array()
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(items) {
				next = items[i]
			}
		}
		v = next
	}
	return v
}

// lastOnes lists which fields of an object count, by their place: of those of one name only the last. nil stands for all.
func (sc *Scope) lastOnes(o *fastjson.Object) []bool {
	same, i := len(sc.order) >= o.Len(), 0
	o.Visit(func(key []byte, _ *fastjson.Value) {
		same = same && sc.order[i] == string(key)
		i++
	})
	if same && sc.distinct >= o.Len() {
		return nil
	}
	sc.distinct = 0
	last, i := map[string]int{}, 0
	o.Visit(func(key []byte, _ *fastjson.Value) {
		last[string(key)] = i
		i++
	})
	if len(last) == o.Len() {
		sc.distinct = o.Len()
		return nil
	}
	counts := make([]bool, o.Len())
	for _, at := range last {
		counts[at] = true
	}
	return counts
}

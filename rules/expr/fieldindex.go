package expr

import (
	"strconv"

	"github.com/valyala/fastjson"
)

// fieldIndex finds all payload fields that the expressions of a set name in one pass over a payload. For duplicate
// names in an object the last one counts, as for most consumers of the message (RFC 8259, section 4, leaves this open).
// It belongs to one scope.
type fieldIndex struct {
	nodes []fieldNode
	at    []int32 // by symbol: its node; negative if it has none
	gen   uint64  // Scope.gen of found
	found []int32 // nodes that are present, possibly twice
}

// fieldNode is a named payload field or an ancestor of one. Node 0 is the whole payload.
type fieldNode struct {
	children map[string]int32
	elements []listElement // children that are indexes of a list
	symbols  []uint16      // of the field
	value    *fastjson.Value
	gen      uint64  // Scope.gen of value
	listed   uint64  // Scope.gen for which found lists the node
	order    []place // names of the last object, by position
}

type listElement struct {
	index int
	node  int32
}

// place caches the node for the name at a position of an object: vehicles write their fields in a fixed order, mostly
// the same one.
type place struct {
	name string
	node int32
}

// Values of place.node other than a node.
const (
	noField = -1 - iota // a name that no expression uses
	unknown             // no name seen at this position
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

// field returns the payload value of a symbol, nil if it is missing.
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

// findFields scans the payload, once per record.
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

// find sets the values of a node and of its descendants.
func (sc *Scope) find(at int32, v *fastjson.Value) {
	n := &sc.fields.nodes[at]
	if n.gen == sc.gen {
		sc.fields.forget(n) // a duplicate name
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

// forget removes the values of a node's descendants.
func (x *fieldIndex) forget(n *fieldNode) {
	for _, child := range n.children {
		c := &x.nodes[child]
		if c.gen == n.gen {
			x.forget(c)
			c.gen = 0
		}
	}
}

// childAt returns the node for the name at a position of an object.
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

// fieldBelow returns the field of a payload at a path; nil if it is missing or there is no payload.
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

// lastOnes says by position which fields of an object count: of duplicate names only the last. nil means all.
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

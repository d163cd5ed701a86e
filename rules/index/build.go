package index

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"cellgate/rules/expr"
)

const (
	// divideFrom is the number of rules from which a bucket is divided further.
	divideFrom = 8
	// maxDepth bounds how often a bucket is divided: one clause of a condition each time.
	maxDepth = 4
	// maxListed bounds the lists whose values are entered one by one. A longer list is checked once per message for all
	// rules that have it.
	maxListed = 256
)

// Index finds the rules of a set. It is immutable. Use it through a Finder.
type Index struct {
	symbols []expr.Symbol
	whens   []*expr.Expression // by rule
	fields  [][]uint16         // by rule: the payload fields named in its condition
	lists   []list
	// distinct are the lists that differ from all earlier ones.
	distinct []int
	listsOf  [][]int // by rule
	counters int
	common   []int // by rule: the number of the clause that its condition shares with others
	commons  int
}

// list has the rules whose topic filters end at the same node.
type list struct {
	rules   []uint16
	root    *node
	names   map[uint16]*name
	sets    fieldSets
	several []uint16 // the rules that are in other lists too
	decodes bool     // a condition needs the payload
	plain   []uint16 // symbols of names and nodes that are not payload fields
}

// name has the guards of a list on one name, and the field sets to count if the name is present.
type name struct {
	guards []guard
	sets   []int
}

func (l *list) name(symbol uint16) *name {
	n := l.names[symbol]
	if n == nil {
		n = &name{}
		l.names[symbol] = n
	}
	return n
}

// guard has the rules that must be evaluated if a name has a value of another kind.
type guard struct {
	kinds expr.Kind
	rules []uint16
}

// node finds rules, each by one clause.
type node struct {
	always  []uint16 // rules without such a clause
	columns map[uint16]*column
	fields  []uint16 // columns for payload fields
	plain   []uint16 // the other columns
	absent  []uint16 // columns with a clause that a missing name meets
	buckets []bucket
}

// column has the buckets of a node's clauses on one name.
type column struct {
	texts   map[string][]uint32
	numbers *ranges
	there   []uint32
	absent  []uint32
	truth   [2][]uint32
	lists   []longList
}

type longList struct {
	test   *expr.Test
	bucket uint32
}

// bucket has the rules that share a clause; many rules are in a node of their own.
type bucket struct {
	rules []uint16
	node  *node
}

// New returns the index of rules with these conditions (nil for none). A list has the rules whose filters end at the
// same node.
func New(symbols []expr.Symbol, whens []*expr.Expression, lists [][]uint16) *Index {
	x := &Index{
		symbols: symbols, whens: whens, lists: make([]list, len(lists)), fields: make([][]uint16, len(whens)), listsOf: make([][]int, len(whens)),
	}
	for r, when := range whens {
		x.fields[r] = x.fieldsOf(when)
	}
	x.numberCommon()
	for i, rules := range lists {
		for _, r := range rules {
			x.listsOf[r] = append(x.listsOf[r], i)
		}
	}
	same := map[string]int{}
	for i, rules := range lists {
		if first, ok := same[keyOf(rules)]; ok {
			x.lists[i] = x.lists[first]
			continue
		}
		same[keyOf(rules)] = i
		x.lists[i], x.distinct = x.list(rules), append(x.distinct, i)
	}
	return x
}

// numberCommon numbers the expressions that several conditions share.
func (x *Index) numberCommon() {
	numbers := map[*expr.Expression]int{}
	x.common = make([]int, len(x.whens))
	for r, when := range x.whens {
		if when == nil || when.Condition == nil || when.Condition.Common == nil {
			continue
		}
		e := when.Condition.Common
		if _, known := numbers[e]; !known {
			numbers[e] = len(numbers)
		}
		x.common[r] = numbers[e]
	}
	x.commons = len(numbers)
}

// keyOf returns a comparable form of a list.
func keyOf(list []uint16) string {
	key := make([]byte, 0, 2*len(list))
	for _, n := range list {
		key = binary.BigEndian.AppendUint16(key, n)
	}
	return string(key)
}

func (x *Index) list(rules []uint16) list {
	l := list{rules: rules, names: map[uint16]*name{}}
	entries := make([]entry, len(rules))
	for i, r := range rules {
		entries[i].rule = r
		if len(x.listsOf[r]) > 1 {
			l.several = append(l.several, r)
		}
		when := x.whens[r]
		if when == nil {
			continue
		}
		l.decodes = l.decodes || when.Decodes(x.symbols)
		if when.Condition == nil {
			continue
		}
		entries[i].clauses = when.Condition.Clauses
		for _, need := range when.Condition.Needs {
			l.guard(need, r)
		}
	}
	l.root = x.divide(entries, maxDepth)
	x.count(&l)
	for sym := range l.names {
		if !x.symbols[sym].IsField() {
			l.plain = append(l.plain, sym)
		}
	}
	slices.Sort(l.plain)
	return l
}

func (l *list) guard(need expr.Need, rule uint16) {
	n := l.name(need.Symbol)
	i := slices.IndexFunc(n.guards, func(g guard) bool { return g.kinds == need.Kinds })
	if i < 0 {
		i = len(n.guards)
		n.guards = append(n.guards, guard{kinds: need.Kinds})
	}
	n.guards[i].rules = append(n.guards[i].rules, rule)
}

// entry is a rule to enter, with the clauses that can find it.
type entry struct {
	rule    uint16
	clauses []expr.Clause
}

// way is a way to find a rule: by any of the keys.
type way struct {
	cost  int
	keys  []key
	spent []int // the clauses that it covers
}

// key identifies a bucket: rules with equal keys share it.
type key struct {
	symbol uint16
	op     expr.TestOp
	not    bool
	truth  bool
	within interval
	text   string
	list   uintptr // identity of a long list
	test   *expr.Test
}

// comparable returns the key without the fields that do not identify it.
func (k key) comparable() key { k.test = nil; return k }

func (x *Index) divide(entries []entry, depth int) *node {
	n := &node{columns: map[uint16]*column{}}
	groups := map[key]*group{}
	var order []*group
	for _, e := range entries {
		w, ok := e.cheapest()
		if !ok {
			n.always = append(n.always, e.rule)
			continue
		}
		rest := entry{rule: e.rule}
		for i, c := range e.clauses {
			if !slices.Contains(w.spent, i) {
				rest.clauses = append(rest.clauses, c)
			}
		}
		for _, k := range w.keys {
			g := groups[k.comparable()]
			if g == nil {
				g = &group{key: k}
				groups[k.comparable()] = g
				order = append(order, g)
			}
			if len(g.entries) == 0 || g.entries[len(g.entries)-1].rule != e.rule {
				g.entries = append(g.entries, rest)
			}
		}
	}
	for _, g := range order {
		n.enter(g.key, x.bucket(g.entries, depth))
	}
	n.finish(x.symbols, order)
	return n
}

type group struct {
	key     key
	entries []entry
}

func (x *Index) bucket(entries []entry, depth int) bucket {
	var b bucket
	if len(entries) >= divideFrom && depth > 1 {
		b.node = x.divide(entries, depth-1)
		if len(b.node.columns) > 0 {
			return b
		}
		b.node = nil
	}
	for _, e := range entries {
		b.rules = append(b.rules, e.rule)
	}
	return b
}

// enter adds a bucket under a key. finish adds the ranges.
func (n *node) enter(k key, b bucket) {
	at := uint32(len(n.buckets))
	n.buckets = append(n.buckets, b)
	c := n.columns[k.symbol]
	if c == nil {
		c = &column{texts: map[string][]uint32{}}
		n.columns[k.symbol] = c
	}
	switch {
	case k.test != nil:
		c.lists = append(c.lists, longList{k.test, at})
	case k.op == expr.Equals:
		c.texts[k.text] = append(c.texts[k.text], at)
	case k.op == expr.IsBool:
		i := 0
		if k.truth {
			i = 1
		}
		c.truth[i] = append(c.truth[i], at)
	case k.op == expr.IsThere && k.not:
		c.absent = append(c.absent, at)
	case k.op == expr.IsThere:
		c.there = append(c.there, at)
	}
}

// finish builds the ranges and classifies the columns.
func (n *node) finish(symbols []expr.Symbol, order []*group) {
	within, buckets := map[uint16][]interval{}, map[uint16][]uint32{}
	for i, g := range order {
		if g.key.op == expr.Within {
			within[g.key.symbol] = append(within[g.key.symbol], g.key.within)
			buckets[g.key.symbol] = append(buckets[g.key.symbol], uint32(i))
		}
	}
	for _, sym := range slices.Sorted(maps.Keys(n.columns)) {
		c := n.columns[sym]
		if len(within[sym]) > 0 {
			c.numbers = newRanges(within[sym], buckets[sym])
		}
		if len(c.absent) > 0 {
			n.absent = append(n.absent, sym)
		}
		if symbols[sym].IsField() {
			n.fields = append(n.fields, sym)
		} else {
			n.plain = append(n.plain, sym)
		}
	}
}

// cheapest returns the way that is likely to match the fewest messages.
func (e *entry) cheapest() (way, bool) {
	var best way
	found := false
	consider := func(w way) {
		if !found || w.cost < best.cost {
			best, found = w, true
		}
	}
	for i, c := range e.clauses {
		w := way{spent: []int{i}}
		usable := true
		for k := range c {
			keys, cost, ok := keysOf(&c[k])
			if usable = ok; !usable {
				break
			}
			w.keys, w.cost = append(w.keys, keys...), max(w.cost, cost)
		}
		if usable && len(w.keys) <= maxListed {
			consider(w)
		}
	}
	for _, w := range e.intervals() {
		consider(w)
	}
	return best, found
}

// Estimated costs of keys, cheapest first.
const (
	costValue = iota // one value
	costValues
	costRange
	costLongList
	costThere
	costHalfRange
	costTruth
	costAbsent
)

// keysOf returns keys such that a message that passes the test is found under one of them.
func keysOf(t *expr.Test) (keys []key, cost int, ok bool) {
	k := key{symbol: t.Symbol, op: t.Op}
	switch {
	case t.Op == expr.IsThere && t.Not:
		k.not = true
		return []key{k}, costAbsent, true
	case t.Not:
		return nil, 0, false
	case t.Op == expr.IsThere:
		return []key{k}, costThere, true
	case t.Op == expr.IsBool:
		k.truth = t.Bool
		return []key{k}, costTruth, true
	case t.Op == expr.Equals:
		k.text = t.Text
		return []key{k}, costValue, true
	case t.Op == expr.Within:
		k.within = interval{t.Low, t.High}
		return []key{k}, costOf(k.within), true
	}
	return listKeys(t)
}

func listKeys(t *expr.Test) (keys []key, cost int, ok bool) {
	k := key{symbol: t.Symbol, op: t.Op}
	if len(t.Texts)+len(t.Numbers) > maxListed {
		k.list, k.test = t.Identity(), t
		return []key{k}, costLongList, true
	}
	for _, text := range slices.Sorted(maps.Keys(t.Texts)) {
		keys = append(keys, key{symbol: t.Symbol, op: expr.Equals, text: text})
	}
	for _, v := range slices.SortedFunc(maps.Keys(t.Numbers), cmp.Compare[float64]) {
		b := expr.Bound{At: v}
		keys = append(keys, key{symbol: t.Symbol, op: expr.Within, within: interval{b, b}})
	}
	return keys, costValues, true
}

func costOf(i interval) int {
	switch {
	case i.point():
		return costValue
	case i.bounded():
		return costRange
	}
	return costHalfRange
}

// intervals joins the clauses that bound one number from both sides.
func (e *entry) intervals() []way {
	var ways []way
	at := map[uint16]int{}
	for i, c := range e.clauses {
		if len(c) != 1 || c[0].Op != expr.Within || c[0].Not {
			continue
		}
		t := &c[0]
		w, known := at[t.Symbol]
		if !known {
			w = len(ways)
			at[t.Symbol] = w
			ways = append(ways, way{keys: []key{{symbol: t.Symbol, op: expr.Within, within: everything}}})
		}
		k := &ways[w].keys[0]
		k.within = k.within.narrow(interval{t.Low, t.High})
		ways[w].cost, ways[w].spent = costOf(k.within), append(ways[w].spent, i)
	}
	return ways
}

package index

import (
	"slices"

	"cellgate/rules/expr"
)

// Found is a rule whose condition a message may meet.
type Found struct {
	Rule uint16
	// Sure means that the message meets the condition or that the rule has none. Otherwise evaluate it.
	Sure bool
}

// Finder looks up rules for messages without allocating. It belongs to one goroutine, like its scope.
type Finder struct {
	index   *Index
	scope   *expr.Scope
	turn    uint32
	stamps  []uint32 // by rule: the turn in which it was found
	present []uint16
	rules   []uint16
	emit    func(bucket uint32)
	node    *node // the node whose rules emit adds
	shared  []sharedResult
	counts  []uint64
	seen    []uint32  // by rule: the turn in which again was last updated
	again   []counted // by rule: messages counted more than once
}

// sharedResult is the result of an expression that several conditions share.
type sharedResult struct {
	turn uint32
	may  bool
}

// NewFinder returns a finder for the records of a scope.
func (x *Index) NewFinder(sc *expr.Scope) *Finder {
	f := &Finder{index: x, scope: sc, stamps: make([]uint32, len(x.whens)), shared: make([]sharedResult, x.commons), seen: make([]uint32, len(x.whens)), counts: make([]uint64, x.counters), again: make([]counted, len(x.whens))}
	f.emit = f.bucket
	return f
}

// Find appends the rules of some lists whose conditions the scope's record may meet, each once, ascending.
func (f *Finder) Find(lists []int, out []Found) []Found {
	if f.turn++; f.turn == 0 {
		clear(f.stamps)
		clear(f.seen)
		clear(f.shared)
		f.turn = 1
	}
	f.rules = f.rules[:0]
	all := f.spot(lists)
	for _, n := range lists {
		l := &f.index.lists[n]
		f.counts[l.sets.at]++
		if all {
			f.counts[l.sets.at+1]++
			f.add(l.rules)
			continue
		}
		f.visit(l.root)
		f.names(l)
	}
	if len(lists) > 1 {
		f.twice(lists)
	}
	slices.Sort(f.rules)
	for _, r := range f.rules {
		when := f.index.whens[r]
		switch {
		case when == nil:
			out = append(out, Found{r, true})
		case all || when.Condition == nil:
			out = append(out, Found{r, false})
		default:
			if may, sure := f.check(r, when.Condition); may {
				out = append(out, Found{r, sure})
			}
		}
	}
	return out
}

// spot scans the payload if a rule needs it. It reports whether decoding failed; then every rule is evaluated.
func (f *Finder) spot(lists []int) (failed bool) {
	f.present = f.present[:0]
	for _, n := range lists {
		if f.index.lists[n].decodes {
			var err error
			f.present, err = f.scope.Spot(f.present)
			return err != nil
		}
	}
	return false
}

func (f *Finder) add(rules []uint16) {
	for _, r := range rules {
		if f.stamps[r] != f.turn {
			f.stamps[r] = f.turn
			f.rules = append(f.rules, r)
		}
	}
}

// names adds the rules that may give an error, and counts those whose fields are present.
func (f *Finder) names(l *list) {
	for _, symbols := range [2][]uint16{f.present, l.plain} {
		for _, sym := range symbols {
			n := l.names[sym]
			if n == nil {
				continue
			}
			kind := f.scope.Look(sym).Kind
			for i := range n.guards {
				if n.guards[i].kinds&kind == 0 {
					f.add(n.guards[i].rules)
				}
			}
			if kind != expr.Missing {
				f.has(l, n.sets)
			}
		}
	}
}

// visit adds the rules that a node finds.
func (f *Finder) visit(n *node) {
	f.add(n.always)
	fields := n.fields
	if len(f.present) < len(fields) {
		fields = f.present
	}
	for _, symbols := range [2][]uint16{fields, n.plain} {
		for _, sym := range symbols {
			if c := n.columns[sym]; c != nil {
				f.column(n, c, f.scope.Look(sym))
			}
		}
	}
	for _, sym := range n.absent {
		if f.scope.Look(sym).Kind == expr.Missing {
			f.buckets(n, n.columns[sym].absent)
		}
	}
}

func (f *Finder) column(n *node, c *column, v *expr.Seen) {
	if v.Kind == expr.Missing {
		return
	}
	f.buckets(n, c.there)
	for i := range c.lists {
		if c.lists[i].test.Holds(v) {
			f.enter(n, c.lists[i].bucket)
		}
	}
	switch v.Kind {
	case expr.TextKind:
		f.buckets(n, c.texts[v.Text])
	case expr.NumberKind:
		if c.numbers != nil {
			f.node = n
			c.numbers.at(v.Number, f.emit)
		}
	case expr.BoolKind:
		i := 0
		if v.Bool {
			i = 1
		}
		f.buckets(n, c.truth[i])
	}
}

// bucket adds the rules of a bucket of the current node.
func (f *Finder) bucket(b uint32) {
	n := f.node
	f.enter(n, b)
	f.node = n
}

func (f *Finder) buckets(n *node, numbers []uint32) {
	for _, b := range numbers {
		f.enter(n, b)
	}
}

func (f *Finder) enter(n *node, b uint32) {
	if inner := n.buckets[b].node; inner != nil {
		f.visit(inner)
		return
	}
	f.add(n.buckets[b].rules)
}

// check decides a condition's clauses. may is false if the condition is false; sure means that it is true.
func (f *Finder) check(rule uint16, c *expr.Condition) (may, sure bool) {
	for _, need := range c.Needs {
		if f.scope.Look(need.Symbol).Kind&need.Kinds == 0 {
			return true, false
		}
	}
	for _, clause := range c.Clauses {
		if !f.holds(clause) {
			return false, false
		}
	}
	return c.Common == nil || f.common(f.index.common[rule], c.Common), c.Whole
}

// common reports whether a shared clause may hold. If it fails, each condition that has it reports the error.
func (f *Finder) common(n int, e *expr.Expression) bool {
	c := &f.shared[n]
	if c.turn != f.turn {
		f.scope.BeginRule()
		is, known, err := f.scope.Holds(e)
		*c = sharedResult{f.turn, is || !known || err != nil}
	}
	return c.may
}

func (f *Finder) holds(clause expr.Clause) bool {
	for i := range clause {
		if clause[i].Holds(f.scope.Look(clause[i].Symbol)) {
			return true
		}
	}
	return false
}

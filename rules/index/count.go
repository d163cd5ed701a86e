package index

import (
	"slices"

	"cellgate/rules/expr"
)

// This file counts, for each rule, the messages on its topics and those that lack a field named in its condition. Rules
// that are skipped add no cost: messages are counted by list, and by the sets of fields that they have.

// fieldSets are the distinct sets of fields named in the conditions of a list.
type fieldSets struct {
	symbols [][]uint16 // by set
	of      []int      // by position of a rule in its list: its set, -1 for none
	// at is the position of the list's counters: messages, messages that cannot be decoded, and for each set the
	// messages that have all its fields.
	at int
}

// fieldsOf returns the payload fields named in a condition.
func (x *Index) fieldsOf(when *expr.Expression) []uint16 {
	if when == nil {
		return nil
	}
	return when.Fields(x.symbols)
}

// count builds the sets of a list. Each set is checked at the field that the fewest sets have.
func (x *Index) count(l *list) {
	known, common := map[string]int{}, map[uint16]int{}
	for _, r := range l.rules {
		fields := x.fields[r]
		if len(fields) == 0 {
			l.sets.of = append(l.sets.of, -1)
			continue
		}
		id := keyOf(fields)
		set, ok := known[id]
		if !ok {
			set = len(l.sets.symbols)
			known[id] = set
			l.sets.symbols = append(l.sets.symbols, fields)
			for _, f := range fields {
				common[f]++
			}
		}
		l.sets.of = append(l.sets.of, set)
	}
	for set, fields := range l.sets.symbols {
		under := slices.MinFunc(fields, func(a, b uint16) int { return common[a] - common[b] })
		n := l.name(under)
		n.sets = append(n.sets, set)
	}
	l.sets.at = x.counters
	x.counters += 2 + len(l.sets.symbols)
}

// has counts the sets that the message has completely.
func (f *Finder) has(l *list, sets []int) {
	for _, set := range sets {
		if !f.lack(l.sets.symbols[set]) {
			f.counts[l.sets.at+2+set]++
		}
	}
}

func (f *Finder) lack(fields []uint16) bool {
	for _, sym := range fields {
		if f.scope.Look(sym).Kind == expr.Missing {
			return true
		}
	}
	return false
}

// Lacks reports whether the record lacks a field named in a rule's condition.
func (f *Finder) Lacks(rule uint16) bool { return f.lack(f.index.fields[rule]) }

// twice counts how many times too often the rules that are in several of the lists are counted. Each of them is in a
// list other than the longest, so that one is skipped.
func (f *Finder) twice(lists []int) {
	longest := 0
	for i, n := range lists {
		if len(f.index.lists[n].rules) > len(f.index.lists[lists[longest]].rules) {
			longest = i
		}
	}
	for i, n := range lists {
		if i == longest {
			continue
		}
		for _, r := range f.index.lists[n].several {
			if f.seen[r] == f.turn {
				continue
			}
			f.seen[r] = f.turn
			again := -1
			for _, of := range f.index.listsOf[r] {
				if slices.Contains(lists, of) {
					again++
				}
			}
			f.again[r].add(uint64(again), f.lack(f.index.fields[r]))
		}
	}
}

// counted counts messages, and those that lack a field.
type counted struct{ messages, lacking uint64 }

func (c *counted) add(n uint64, lacking bool) {
	c.messages += n
	if lacking {
		c.lacking += n
	}
}

// Counts calls give for each rule with the messages on its topics so far, and those that lack a field named in its
// condition.
func (f *Finder) Counts(give func(rule uint16, messages, lacking uint64)) {
	all := make([]counted, len(f.index.whens))
	for _, n := range f.index.distinct {
		l := &f.index.lists[n]
		c := f.counts[l.sets.at:]
		for i, r := range l.rules {
			all[r].messages += c[0]
			if set := l.sets.of[i]; set >= 0 {
				all[r].lacking += c[0] - c[1] - c[2+set]
			}
		}
	}
	for r := range all {
		give(uint16(r), all[r].messages-f.again[r].messages, all[r].lacking-f.again[r].lacking)
	}
}

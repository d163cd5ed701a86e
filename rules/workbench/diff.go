package workbench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// Change describes how one rule differs between two sets.
type Change struct {
	Rule string `json:"rule"`
	// Kind is added, removed or changed.
	Kind string `json:"kind"`
	// Parts are the keys whose meaning differs, with both forms; only if Kind is changed.
	Parts []PartChange `json:"parts,omitempty"`
	// StateLost names the operators that lose their state under the new set.
	StateLost []string `json:"state_lost,omitempty"`
}

// PartChange is a key of a rule before and after.
type PartChange struct {
	Key string `json:"key"`
	Old string `json:"old"`
	New string `json:"new"`
}

// DiffReport is the result of Diff.
type DiffReport struct {
	OldHash string   `json:"old_hash"`
	NewHash string   `json:"new_hash"`
	Changes []Change `json:"changes"`
	Same    int      `json:"same"`
}

// Diff compares two sets rule by rule. Comments, order and the spelling of expressions do not count. A change of a list
// or macro counts in the rules that use it.
func Diff(before, after *lang.Set) DiffReport {
	rep := DiffReport{OldHash: before.Hash(), NewHash: after.Hash(), Changes: []Change{}}
	old, now := byID(before), byID(after)
	for id, r := range old {
		if now[id] == nil {
			rep.Changes = append(rep.Changes, Change{Rule: id, Kind: "removed", StateLost: r.Info.Operators})
		}
	}
	for id, r := range now {
		o := old[id]
		if o == nil {
			rep.Changes = append(rep.Changes, Change{Rule: id, Kind: "added"})
			continue
		}
		c := Change{Rule: id, Kind: "changed", Parts: diffParts(ruleParts(o), ruleParts(r)), StateLost: lostState(o, r)}
		if len(c.Parts) == 0 {
			rep.Same++
			continue
		}
		rep.Changes = append(rep.Changes, c)
	}
	slices.SortFunc(rep.Changes, func(a, b Change) int { return cmp.Compare(a.Rule, b.Rule) })
	return rep
}

func byID(s *lang.Set) map[string]*lang.Rule {
	m := make(map[string]*lang.Rule, len(s.Compiled))
	for _, r := range s.Compiled {
		m[r.Info.ID] = r
	}
	return m
}

// lostState names the operators of the old rule whose state the new one does not keep.
func lostState(old, now *lang.Rule) []string {
	var lost []string
	for _, op := range old.Operators {
		if !slices.ContainsFunc(now.Operators, func(n *lang.Operator) bool { return n.Key == op.Key }) {
			lost = append(lost, op.Name)
		}
	}
	return lost
}

// part is a key of a rule: text to show, code to compare.
type part struct{ key, text, code string }

// ruleParts returns the keys of a rule that determine what it does.
func ruleParts(r *lang.Rule) []part {
	var out []part
	add := func(key, text, code string) { out = append(out, part{key, text, code}) }
	from := slices.Clone(r.Info.From)
	slices.Sort(from)
	add("from", strings.Join(r.Info.From, ", "), strings.Join(from, "\n"))
	add("when", r.Info.When, fmt.Sprint(r.When.Digest()))
	for _, op := range r.Operators {
		add(op.Name, operatorText(op.Args), op.Definition())
	}
	add("transform", r.Def.Transform.Describe(), r.Transform.Code())
	for i, t := range r.Targets {
		text := targetText(t)
		add(fmt.Sprintf("to[%d]", i), text, text+t.Args.Code.String())
	}
	add("on_error", errorsText(r), errorsText(r))
	add("mode", r.Info.Mode, r.Info.Mode)
	add("limits", r.Info.Limit, r.Info.Limit)
	add("schema.event_at", strings.Join(r.Schema.EventAt, "."), fmt.Sprint(r.Schema.EventAt, r.Schema.Unit))
	return out
}

// errorsText returns the destination of a rule's errors.
func errorsText(r *lang.Rule) string {
	switch {
	case r.ErrTopic == "":
		return "none"
	case r.ErrEmpty:
		return r.ErrTopic + ", payload: none"
	}
	return r.ErrTopic
}

func diffParts(old, now []part) []PartChange {
	var out []PartChange
	find := func(list []part, key string) part {
		if i := slices.IndexFunc(list, func(p part) bool { return p.key == key }); i >= 0 {
			return list[i]
		}
		return part{}
	}
	for _, p := range old {
		if n := find(now, p.key); n.code != p.code {
			out = append(out, PartChange{Key: p.key, Old: p.text, New: n.text})
		}
	}
	for _, p := range now {
		if !slices.ContainsFunc(old, func(o part) bool { return o.key == p.key }) {
			out = append(out, PartChange{Key: p.key, New: p.text})
		}
	}
	return out
}

// operatorText formats an operator for a diff: expressions, times, numbers, then its other keys.
func operatorText(a *op.Args) string {
	var texts [4][]string
	for i := range a.Keys {
		k := &a.Keys[i]
		switch v := a.Values[k.Name].(type) {
		case *doc.Scalar:
			texts[0] = append(texts[0], cmp.Or(k.Shown, k.Name)+": "+v.Text())
		case time.Duration:
			texts[1] = append(texts[1], "time: "+v.String())
		case int:
			texts[2] = append(texts[2], fmt.Sprintf("count: %d", v))
		case interface{ Shown() string }:
			texts[3] = append(texts[3], v.Shown())
		}
	}
	return strings.Join(slices.Concat(texts[:]...), ", ")
}

// targetText formats a target for a diff: destination, words, expressions, mappings, then the rest.
func targetText(t *lang.Target) string {
	var texts [7][]string
	add := func(rank int, name, value string) {
		texts[rank] = append(texts[rank], strings.TrimSpace(name+" "+value))
	}
	for i := range t.Args.Keys {
		k := &t.Args.Keys[i]
		switch v := t.Args.Values[k.Name].(type) {
		case *doc.Scalar:
			if k.Value.Place {
				add(0, strings.TrimPrefix(k.Name, op.TopicKey.Name), v.Value)
			} else {
				add(2, k.Name, v.Text())
			}
		case string:
			add(1, k.Name, v)
		case *expr.Tree:
			add(3, k.Name, v.Describe())
		case interface{ Shown() string }:
			add(4, k.Name, v.Shown())
		case time.Duration:
			add(5, k.Name, v.String())
		case int:
			add(6, k.Name, strconv.Itoa(v))
		}
	}
	return string(t.Kind) + " " + strings.Join(slices.Concat(texts[:]...), " ")
}

// Write writes the differences as text.
func (rep *DiffReport) Write(w io.Writer) error {
	var b strings.Builder
	for _, c := range rep.Changes {
		fmt.Fprintf(&b, "%-8s %s\n", c.Kind, c.Rule)
		for _, p := range c.Parts {
			fmt.Fprintf(&b, "         %s:\n           - %s\n           + %s\n", p.Key, p.Old, p.New)
		}
		if len(c.StateLost) > 0 {
			fmt.Fprintf(&b, "         loses its state of every vehicle, unless it is added again within a day: %s\n", strings.Join(c.StateLost, ", "))
		}
	}
	fmt.Fprintf(&b, "%s, %d the same\n", counted(len(rep.Changes), "rule")+" different", rep.Same)
	_, err := io.WriteString(w, b.String())
	return err
}

// DiffPaths compares the rules below two paths and writes the differences. ok is false if one of them does not compile;
// its findings are written instead.
func DiffPaths(w io.Writer, before, after string, o ToolOptions) (rep DiffReport, ok bool, err error) {
	sets := make([]*lang.Set, 2)
	for i, p := range []string{before, after} {
		src, err := lang.Load(p)
		if err != nil {
			return rep, false, err
		}
		set, diags := lang.Compile(src, o.Options)
		if diags.HasErrors() {
			if o.JSON {
				return rep, false, writeJSON(w, checkReport{Diagnostics: diags})
			}
			return rep, false, diags.Write(w)
		}
		sets[i] = set
	}
	rep = Diff(sets[0], sets[1])
	if o.JSON {
		return rep, true, writeJSON(w, rep)
	}
	return rep, true, rep.Write(w)
}

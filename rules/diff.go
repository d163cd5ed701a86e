package rules

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Change is what differs between two rule sets in one rule.
type Change struct {
	Rule string `json:"rule"`
	// Kind is added, removed or changed.
	Kind string `json:"kind"`
	// Parts are the keys of the rule whose meaning differs, with both forms; only for changed.
	Parts []PartChange `json:"parts,omitempty"`
	// StateLost names the operators that start anew under the new set.
	StateLost []string `json:"state_lost,omitempty"`
}

// PartChange is a key of a rule before and after.
type PartChange struct {
	Key string `json:"key"`
	Old string `json:"old"`
	New string `json:"new"`
}

// DiffReport is what Diff finds.
type DiffReport struct {
	OldHash string   `json:"old_hash"`
	NewHash string   `json:"new_hash"`
	Changes []Change `json:"changes"`
	Same    int      `json:"same"`
}

// Diff compares two sets rule by rule. Comments, order and the spelling of expressions do not count:
// what a list or macro holds does, in the rules that use it.
func Diff(before, after *Set) DiffReport {
	rep := DiffReport{OldHash: before.hash, NewHash: after.hash, Changes: []Change{}}
	old, now := byID(before), byID(after)
	for id, r := range old {
		if now[id] == nil {
			rep.Changes = append(rep.Changes, Change{Rule: id, Kind: "removed", StateLost: r.info.Operators})
		}
	}
	for id, r := range now {
		o := old[id]
		if o == nil {
			rep.Changes = append(rep.Changes, Change{Rule: id, Kind: "added"})
			continue
		}
		c := Change{Rule: id, Kind: "changed", Parts: diffParts(o.parts(), r.parts()), StateLost: lostState(o, r)}
		if len(c.Parts) == 0 {
			rep.Same++
			continue
		}
		rep.Changes = append(rep.Changes, c)
	}
	slices.SortFunc(rep.Changes, func(a, b Change) int { return cmp.Compare(a.Rule, b.Rule) })
	return rep
}

func byID(s *Set) map[string]*rule {
	m := make(map[string]*rule, len(s.rules))
	for _, r := range s.rules {
		m[r.info.ID] = r
	}
	return m
}

// lostState names the operators of the old rule whose state the new one does not take over.
func lostState(old, now *rule) []string {
	var lost []string
	for i, op := range old.operators {
		if !slices.ContainsFunc(now.operators, func(n operator) bool { return n.stateKey() == op.stateKey() }) {
			lost = append(lost, old.info.Operators[i])
		}
	}
	return lost
}

// part is a key of a rule: text for people, code for comparing.
type part struct{ key, text, code string }

// parts are the keys of a rule that decide what it does.
func (r *rule) parts() []part {
	var out []part
	add := func(key, text, code string) { out = append(out, part{key, text, code}) }
	from := slices.Clone(r.info.From)
	slices.Sort(from)
	add("from", strings.Join(r.info.From, ", "), strings.Join(from, "\n"))
	add("when", r.info.When, fmt.Sprint(r.when.digest()))
	for i, op := range r.operators {
		add(r.info.Operators[i], r.def.operators[i].describe(), op.definition())
	}
	add("transform", r.def.transform.describe(), r.transform.code())
	for i, t := range r.targets {
		text := r.def.to[i].describe()
		add(fmt.Sprintf("to[%d]", i), text, text+t.code())
	}
	add("on_error", r.errTopic, r.errTopic)
	add("mode", r.info.Mode, r.info.Mode)
	add("schema.event_at", strings.Join(r.schema.eventAt, "."), fmt.Sprint(r.schema.eventAt, r.schema.unit))
	return out
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

func (s *scalar) text() string {
	if s == nil {
		return ""
	}
	return strings.TrimSpace(s.value)
}

func (o *operatorDef) describe() string {
	var b strings.Builder
	for _, p := range []struct {
		name string
		s    *scalar
	}{{"enter", o.enter}, {"exit", o.exit}, {"of", o.by}, {"lat", o.lat}, {"lon", o.lon}} {
		if p.s != nil {
			fmt.Fprintf(&b, "%s: %s, ", p.name, p.s.text())
		}
	}
	if o.every > 0 {
		fmt.Fprintf(&b, "time: %s, ", o.every)
	}
	if o.count > 0 {
		fmt.Fprintf(&b, "count: %d, ", o.count)
	}
	for _, z := range o.zones {
		fmt.Fprintf(&b, "%s, ", z.name)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

func (v *valueDef) describe() string {
	if v == nil {
		return ""
	}
	if v.expr != nil {
		return v.expr.text()
	}
	items := make([]string, len(v.items))
	for i, item := range v.items {
		items[i] = item.describe()
		if !v.isList {
			items[i] = v.names[i] + ": " + items[i]
		}
	}
	if v.isList {
		return "[" + strings.Join(items, ", ") + "]"
	}
	return "{" + strings.Join(items, ", ") + "}"
}

func (v *value) code() string {
	if v == nil {
		return ""
	}
	if v.expr != nil {
		return fmt.Sprint(v.expr.digest())
	}
	codes := make([]string, len(v.items))
	for i, item := range v.items {
		codes[i] = item.code()
	}
	return fmt.Sprintf("%t %q %q", v.isList, v.names, codes)
}

func (t *targetDef) describe() string {
	if t.redis == nil {
		s := fmt.Sprintf("%s %s", t.sink, t.topic.value)
		if t.lane != "" {
			s += " lane " + t.lane
		}
		if t.key != nil {
			s += " key " + t.key.text()
		}
		return s
	}
	r := t.redis
	var b strings.Builder
	for _, shape := range redisShapes {
		if shape.kind == r.kind {
			fmt.Fprintf(&b, "redis %s %s", shape.key, r.key.value)
		}
	}
	for _, p := range []struct {
		name string
		s    *scalar
	}{{"fields", r.fields}, {"member", r.member}, {"value", r.value}, {"lon", r.lon}, {"lat", r.lat}} {
		if p.s != nil {
			fmt.Fprintf(&b, " %s %s", p.name, p.s.text())
		}
	}
	if r.set != nil {
		b.WriteString(" set " + r.set.describe())
	}
	if r.newerThan != "" {
		b.WriteString(" newer_than " + r.newerThan)
	}
	if r.ttl > 0 {
		fmt.Fprintf(&b, " ttl %s", r.ttl)
	}
	if r.maxLen > 0 {
		fmt.Fprintf(&b, " max_len %d", r.maxLen)
	}
	return b.String()
}

// code holds what the text of a target does not show: what its expressions and templates come to.
func (t *target) code() string {
	s := fmt.Sprint(t.key.digest(), t.topic.code())
	if r := t.redis; r != nil {
		s += fmt.Sprint(r.key.code(), r.member.digest(), r.value.digest(), r.lon.digest(), r.lat.digest())
		for _, v := range r.values {
			s += v.code()
		}
	}
	return s
}

func (t *template) code() string {
	if t == nil {
		return ""
	}
	s := t.static
	for _, p := range t.parts {
		s += fmt.Sprint(p.text, p.kind, p.expr.digest())
		if p.list != nil {
			s += fmt.Sprint(hashText(p.list.node().String()))
		}
	}
	return s
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
			fmt.Fprintf(&b, "         begins anew for every vehicle, unless it comes back within a day: %s\n", strings.Join(c.StateLost, ", "))
		}
	}
	fmt.Fprintf(&b, "%s, %d the same\n", counted(len(rep.Changes), "rule")+" different", rep.Same)
	_, err := io.WriteString(w, b.String())
	return err
}

// DiffPaths compares the rules below two paths and writes what differs. ok is false when one of them does
// not compile; its findings are written instead.
func DiffPaths(w io.Writer, before, after string, o ToolOptions) (rep DiffReport, ok bool, err error) {
	sets := make([]*Set, 2)
	for i, p := range []string{before, after} {
		src, err := Load(p)
		if err != nil {
			return rep, false, err
		}
		set, diags := Compile(src, Options{Cell: o.Cell})
		if diags.HasErrors() {
			if o.JSON {
				return rep, false, writeJSON(w, CheckReport{Diagnostics: diags})
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

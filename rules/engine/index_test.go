package engine

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// evalEach is Eval without the index: it evaluates every rule on the topic.
func evalEach(w *Worker, rec *message.Record) []Decision {
	var out []Decision
	w.sc.Begin(rec)
	w.seq, w.failed = rec.Seq, w.failed[:0]
	for _, i := range w.engine.set.Match(rec.Topic) {
		r := w.engine.set.Compiled[i]
		out = w.rule(r, r.When == nil, out)
	}
	if len(w.failed) > 0 {
		out = append(out, w.undecoded())
	}
	return out
}

// source derives rules and messages from a sequence of choices.
type source struct {
	next func(n int) int
	long []string // elements of a long list
}

func (s source) of(texts ...string) string { return texts[s.next(len(texts))] }

func (s source) field() string {
	return s.of("payload.a", "payload.b", "payload.c", "payload.n", "payload.o.a", "payload.o.b", "payload.l[1]", `payload["x y"]`,
		"payload.gear", "payload.o", "payload.flag", "vin", "class", "topic", "levels[2]", "levels[9]", "qos", "retain", "late_ms", "event_at", "properties.p", "payload.d", "payload.m", "item")
}

func (s source) constant() string {
	return s.of("0", "1", "2", "-1", "1.5", "2 * 3", "9007199254740993", "9007199254740991", "1e300", `"D"`, `"P"`, `"up"`, `""`, "true", "false", "nil", `"telemetry"`)
}

// condition returns a condition, common or unusual.
func (s source) condition(depth int) string {
	if depth > 0 && s.next(2) == 0 {
		switch s.next(5) {
		case 0, 1:
			return s.condition(depth-1) + " and " + s.condition(depth-1)
		case 2:
			return "(" + s.condition(depth-1) + " or " + s.condition(depth-1) + ")"
		case 3:
			return "not (" + s.condition(depth-1) + ")"
		default:
			return "(" + s.condition(depth-1) + " and " + s.condition(depth-1) + ")"
		}
	}
	switch s.next(15) {
	case 12:
		return s.of("", "", "not ") + "inside(" + s.field() + ", " + s.field() + ", " + s.of("near", "square", "pole", "far_off") + ")"
	case 13:
		return s.of("", "not ") + "inside(" + s.of("payload.a", "payload.n") + ", " + s.of("payload.b", "payload.m") + ", " + s.of("near", "square") + ")"
	case 14:
		return "models[" + s.of("vin", "vin", "payload.gear", "payload.a", "payload.o.a", "class") + "]." + s.of(
			`kind == "D"`, `kind != "D"`, `kind in ["D", "P"]`, `kind in words`, "kind == nil", "kind != nil", "n > 1", "n <= 2", "n == 2", "n != 2", "big > 1", "flag", "flag == false", "n in numbers", "n + 1 > 2", "other == 1",
		)
	case 0, 1, 2, 3:
		return s.field() + s.of(" < ", " <= ", " > ", " >= ", " == ", " != ", " == ") + s.constant()
	case 4:
		return s.constant() + s.of(" < ", " <= ", " > ", " >= ", " == ", " != ") + s.field()
	case 5:
		return s.field() + s.of(" in ", " not in ") + s.of("words", "numbers", "mixed", `["D", "P"]`, "[1, 2, 2.5]", `["D", 1]`, "long", "1..3")
	case 6:
		return s.field() + s.of(" != nil", " == nil")
	case 7:
		return s.of("payload.flag", "not payload.flag", "retain", "moving", "not moving") + s.of("", " == true", " == false")
	case 8:
		return s.field() + " + " + s.field() + s.of(" > 2", ` == "DD"`)
	case 9:
		return s.of(`payload.gear contains "D"`, `payload.gear matches "^D"`, "len(raw) > 40", "len(payload.gear) == 1", "payload.a / payload.b > 1", `payload.gear startsWith "P"`)
	case 10:
		return s.field() + s.of(" < ", " == ", " >= ") + s.field()
	default:
		v := s.next(4)
		return fmt.Sprintf("payload.%s %s %d and payload.%[1]s %s %d", s.of("a", "b", "n"), s.of(">=", ">"), v, s.of("<", "<="), v+s.next(3))
	}
}

// set compiles a rule set. Rules that do not compile are left out.
func (s source) set(t testing.TB, rules int) *lang.Set {
	head := `
lists: {words: [D, P, "1"], numbers: [1, 2, 2.5, 9007199254740993], mixed: [D, 1, 2.5], long: [` + strings.Join(s.long, ", ") + `]}
macros: {moving: payload.a > 1 and payload.gear != "P", far: payload.o.a * 2 > payload.c}
schema: {event_at: t, open: true, fields: {d: integer, n: number, m: {number: [0, 5]}}}
zones:
  near: {lat: 1, lon: 1, radius: 170000}
  square: {polygon: [[0, 0], [2.5, 0], [2.5, 3], [0, 3]]}
  pole: {lat: 89, lon: 10, radius: 400000}
  far_off: {file: far.geojson}
tables: {models: {file: models.csv, key: key}}
rules:
`
	table := "key,kind,n,big,flag,empty\nLTEST000000000001,D,1,1,true,\nLTEST000000000002,P,2.5,9007199254740993,false,\nD,1,,2,,\nP,D,2,3,true,\n1,D,3,,false,\n2.5,P,-1,,,\nup,D,1,1,,\n"
	far := `{"type":"MultiPolygon","coordinates":[[[[0,0],[3,0],[3,3],[0,3],[0,0]],[[1,1],[2,1],[2,2],[1,2],[1,1]]],[[[5,5],[7,5],[7,7],[5,5]]]]}`
	texts := make([]string, rules)
	for i := range texts {
		texts[i] = fmt.Sprintf("  - {id: r%d, from: [%s], when: '%s', %s to: [{kafka: {topic: t}}]}\n", i,
			s.of(`"v1/+/up/telemetry"`, `"v1/+/up/telemetry"`, `"v1/+/up/#"`, `"v1/+/up/#", "v1/+/up/telemetry"`, `"#"`),
			strings.ReplaceAll(s.of("", "", "len(raw) > 60 and ", "payload.a + payload.b > 3 and ", "far and ", "payload.flag and far and ")+s.condition(3), "'", "''"),
			s.of("", "", "", "mode: shadow,", "mode: {canary: 50%},", "on_change: payload.a,", "count: {at_least: 2, window: 10s},", "each: payload.l,"))
	}
	for {
		if len(texts) == 0 {
			texts = []string{"  - {id: any, from: [a], to: [{kafka: {topic: t}}]}\n"}
		}
		set, diags := lang.Compile(lang.NewSource(map[string][]byte{
			"f.rules.yaml": []byte(head + strings.Join(texts, "")), "models.csv": []byte(table), "far.geojson": []byte(far),
		}), rulestest.Options("c"))
		if !diags.HasErrors() {
			return set
		}
		wrong := map[string]bool{}
		for _, d := range diags {
			wrong[d.Rule] = true
		}
		before := len(texts)
		texts = slices.DeleteFunc(texts, func(rule string) bool {
			id, _, _ := strings.Cut(strings.TrimPrefix(rule, "  - {id: "), ",")
			return wrong[id]
		})
		if len(texts) == before {
			t.Fatalf("no rule is wrong, but the set is:\n%v", diags)
		}
	}
}

// longList returns a list longer than the index enters element by element.
func longList() (out []string) {
	for i := range 300 {
		out = append(out, fmt.Sprint(i), fmt.Sprintf("%q", fmt.Sprint("w", i)))
	}
	return append(out, "D")
}

func (s source) value(depth int) string {
	if depth > 0 && s.next(6) == 0 {
		return s.of("["+s.value(0)+","+s.value(0)+"]", "[]", "{}", `{"a":`+s.value(0)+`,"b":`+s.value(0)+`}`)
	}
	return s.of("0", "1", "2", "2.5", "3", "-1", "1.5", "6", "-0", "1e2", "9007199254740991", "9007199254740993", "1e400", "1e-400", "null", "true", "false", `"D"`, `"P"`, `"DD"`, `""`, `"1"`, `"w17"`, "17", `"\u0044"`, "1", "2", `"D"`)
}

func (s source) payload() string {
	if s.next(40) == 0 {
		return s.of("", "{", "[1]", `{"a":1-2}`, "7", `"D"`, "null", `{"a":nan}`)
	}
	var fields []string
	for _, name := range []string{"a", "b", "c", "n", "o", "l", "x y", "gear", "flag", "t", "d", "m", "other"} {
		if s.next(4) != 0 {
			fields = append(fields, fmt.Sprintf("%q:%s", name, s.value(1)))
		}
	}
	if len(fields) > 0 && s.next(10) == 0 { // a duplicate name
		fields = append(fields, fmt.Sprintf("%s:%s", s.of(`"a"`, `"\u0061"`, `"gear"`), s.value(0)))
	}
	return "{" + strings.Join(fields, ",") + "}"
}

func (s source) record(seq uint64) message.Record {
	rec := rulestest.Telemetry(seq, rulestest.Epoch+int64(seq)*100, s.payload())
	vin := s.of("LTEST000000000001", "LTEST000000000002", "LTEST000000000003")
	rec.Topic, rec.Client = "v1/"+vin+s.of("/up/telemetry", "/up/telemetry", "/up/alarm", "/res/1/failed"), vin
	rec.QoS, rec.Retain = byte(s.next(3)), s.next(2) == 0
	if s.next(2) == 0 {
		rec.Props.User = []message.UserProperty{{Name: "p", Value: s.of("D", "1", "")}}
	}
	return rec
}

// compare evaluates messages with and without the index and compares decisions and counts.
func (s source) compare(t testing.TB, set *lang.Set, messages int) {
	t.Helper()
	with := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	each := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	want := make([]RuleCounts, len(set.Compiled))
	for i := range messages {
		rec := s.record(uint64(i + 1))
		got, all := with.Eval(&rec, nil), evalEach(each, &rec)
		if (len(got) > 0 || len(all) > 0) && !reflect.DeepEqual(got, all) {
			t.Fatalf("message %s %s:\nwith the index    %s\nwith every rule   %s", rec.Topic, rec.Payload, named(set, got), named(set, all))
		}
		for _, r := range set.Match(rec.Topic) {
			want[r].Add(countOf(each, r, all))
		}
	}
	got := make([]RuleCounts, len(set.Compiled))
	with.Counts(got)
	for r := range got {
		if got[r].Evaluated, got[r].Time = 0, 0; got[r] != want[r] {
			t.Fatalf("rule %+v:\ncounted %+v\nwant    %+v", set.Compiled[r].Info, got[r], want[r])
		}
	}
}

// countOf returns what a message with these decisions counts for a rule.
func countOf(w *Worker, rule uint16, ds []Decision) *RuleCounts {
	c := &RuleCounts{Considered: 1}
	for i := range ds {
		switch d := &ds[i]; {
		case d.Target == TargetUndecoded:
			if slices.Contains(d.Undecoded, rule) {
				c.Matched, c.Errors = 0, 1
			}
		case d.Rule == rule && d.Err == "":
			c.Matched, c.Errors = 1, 0
		case d.Rule == rule && c.Matched == 0:
			c.Errors = 1
		}
	}
	if c.Matched+c.Errors == 0 && w.finder.Lacks(rule) {
		c.Missing = 1
	}
	return c
}

func named(set *lang.Set, ds []Decision) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintf(&b, "\n  %s %s: %+v", set.RuleID(d.Rule), set.Compiled[d.Rule].Info.When, d)
	}
	return b.String()
}

// TestIndexAgreesWithEveryRule compares the index with evaluating every rule, over generated rules and messages.
func TestIndexAgreesWithEveryRule(t *testing.T) {
	t.Parallel()
	rules, indexed := 0, 0
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := source{r.IntN, longList()}
		set := s.set(t, 60)
		for _, r := range set.Compiled {
			if rules++; r.When != nil && r.When.Condition != nil {
				indexed++
			}
		}
		s.compare(t, set, 150)
	}
	if rules < 200 || indexed < rules/3 {
		t.Errorf("%d rules were made, %d of them are in the index: that says little", rules, indexed)
	}
}

// FuzzIndex lets the fuzzer choose rules and messages.
func FuzzIndex(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		s := source{long: []string{"D", "17"}, next: func(n int) int {
			if len(choices) == 0 {
				return 0
			}
			c := int(choices[0])
			choices = choices[1:]
			return c % n
		}}
		s.compare(t, s.set(t, 6), 8)
	})
}

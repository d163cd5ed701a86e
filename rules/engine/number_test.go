package engine

import (
	"fmt"
	"strings"
	"testing"

	"cellgate/rules/expr"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

// TestNumbers checks number types and arithmetic as documented in rules/README.md.
func TestNumbers(t *testing.T) {
	t.Parallel()
	const p = `{"i":7,"neg":-7,"d":2.5,"w":5.0,"e":1e3,"zero":0,"big":9007199254740993,"next":9007199254740994,"max":9223372036854775807,` +
		`"min":-9223372036854775808,"over":9223372036854775808,"bigf":9007199254740993.0,"text":"12","nul":null,"list":[1,2.5,null,9007199254740993],"flags":181}`
	for _, c := range []struct{ when, want string }{
		// A number without a fraction is whole, however it is written.
		{`payload.w == 5 and payload.e == 1000 and payload.e % 7 == 6 and type(payload.w) == "int"`, "true"},
		{`type(payload.d) == "float" and type(payload.over) == "float"`, "true"},
		// Whole numbers of 64 bits are exact.
		{`payload.big == 9007199254740993 and payload.big != 9007199254740992 and payload.big < payload.next`, "true"},
		{`payload.big + 1 == payload.next and payload.next - payload.big == 1`, "true"},
		{`payload.bigf == payload.big`, "true"},
		{`payload.big in [9007199254740992]`, "false"},
		{`payload.big in [1, "x", 9007199254740993]`, "true"},
		{`payload.big in payload.list`, "true"},
		{`int(payload.max) == 9223372036854775807 and int("9223372036854775807") == payload.max`, "true"},
		{`payload.max > 9223372036854774784.0 and payload.min < 0`, "true"},
		{`payload.max == payload.over`, "false"},
		{`payload.max < payload.over`, "true"},
		{`payload.big > 9007199254740992.0`, "true"},
		// Results outside 64 bits become decimals; they do not wrap around.
		{`payload.max + 1 > payload.max and payload.min - 1 < 0 and payload.max * 2 > payload.max and -payload.min > 0`, "true"},
		{`abs(payload.min) > 0`, "true"},
		{`int(payload.over) > 0`, "error"},
		// Division.
		{`7 / 2 == 3.5 and payload.i / 2 == 3.5 and int(payload.e / 10) % 7 == 2`, "true"},
		{`payload.i / payload.zero > 1`, "false"},
		{`payload.i / payload.zero == nil and payload.i % payload.zero == nil and 1 / 0 == nil`, "true"},
		{`payload.neg / payload.zero < 1`, "false"},
		{`payload.i % 3 == 1 and payload.neg % 3 == -1`, "true"},
		{`payload.d % 2 == 1`, "error"},
		{`payload.text % 2 == 0`, "error"},
		{`payload.no % 2 == 0`, "false"},
		{`2 ** 10 == 1024 and 2 ** 0.5 > 1.41 and (-1) ** 0.5 == nil`, "true"},
		{`1e308 * 10 == nil`, "true"},
		// Bits.
		{`bitand(payload.flags, 128) != 0 and bitor(payload.i, 8) == 15 and bitshl(1, 3) == 8 and bitshr(payload.flags, 4) == 11`, "true"},
		{`bits(payload.flags, 0) == 1 and bits(payload.flags, 4, 3) == 3 and bits(payload.flags, 7) == 1`, "true"},
		{`bitand(payload.d, 1) == 0`, "error"},
		{`bitshl(1, -1) == 0`, "error"},
		{`bitand(payload.no, 1) == 0`, "false"},
		// Functions of a missing value are missing, whatever their result type.
		{`len(payload.no) == 96`, "false"},
		{`len(payload.nul) == 96 or upper(payload.no) == "X" or int(payload.no) == 0 or round(payload.no) == 0`, "false"},
		{`len(payload.no) == nil and string(payload.no) == nil and late_ms == nil`, "true"},
		{`len(payload.i) == 1`, "error"},
		// Numbers as text.
		{`string(1234567.0) == "1234567" and string(payload.big) == "9007199254740993" and string(2.5) == "2.5" and string(1e21) == "1e+21"`, "true"},
		{`string(payload.list) == "[1,2.5,null,9007199254740993]"`, "true"},
		{`int(payload.text) == 12 and float("2.50") == 2.5 and int("1e3") == 1000 and int(-2.7) == -2`, "true"},
		{`int("0x10") == 16`, "error"},
		{`int("NaN") == 0`, "error"},
		// Rounding.
		{`round(2.5) == 3 and round(-2.5) == -3 and floor(-2.5) == -3 and ceil(2.1) == 3 and round(payload.d) % 2 == 1`, "true"},
		{`round(1.005, 2) == 1.01 and round(2.449, 1) == 2.4 and round(1234, -2) == 1200 and round(payload.big, 3) == payload.big`, "true"},
		{`round(1.5, 99) == 1.5`, "error"},
		// Missing elements of a list are left out.
		{`sum(payload.list) > 3 and max(payload.list) == payload.big and min(payload.list) == 1 and median(1, 2, 4) == 2`, "true"},
		{`mean(1, 2) == 1.5 and max(payload.i, 9, payload.d) == 9 and min(payload.i, payload.no) == nil`, "true"},
		// Types do not mix.
		{`payload.text == 12`, "false"},
		{`payload.text < 13`, "error"},
		{`payload.text + 1 == 13`, "error"},
		// Elements and characters.
		{`payload.list[payload.i - 6] == 2.5 and payload.list[payload.i] == nil and "abc"[1:2] == "b" and "grün"[2:] == "ün"`, "true"},
		{`byte("A", 0) == 65 and byte("A", 1) == nil and byte(raw, 0) == 123`, "true"},
		{`indexOf("grün!", "!") == 4 and len("grün") == 4`, "true"},
		// Time.
		{`received_at.Month() == 11 and received_at.Weekday() == 4 and received_at.at_zone("Asia/Shanghai").Hour() == 8`, "true"},
		{`at_zone("Asia/Shanghai").Day() == received_at.Day() and at_zone("Asia/Shanghai") == received_at`, "true"},
		{`event_at.Weekday() == 1`, "false"},
		{`duration("1m") * 2 == duration("2m")`, "true"},
		{`duration("7d") == duration("168h") && duration("-1d12h") == duration("-36h")`, "true"},
		{`received_at - duration("1m") < received_at`, "true"},
	} {
		got := evalWhen(t, c.when, p)
		if strings.HasPrefix(got, "error: ") && c.want == "error" {
			if strings.Contains(got, "{}") || strings.Contains(got, "reflect") || strings.Contains(got, "int64") {
				t.Errorf("%s: %s", c.when, got)
			}
			continue
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.when, got, c.want)
		}
	}
}

// TestValuesArePassedOnExactly sends numbers that no float can represent through everything a rule can do with a value.
func TestValuesArePassedOnExactly(t *testing.T) {
	t.Parallel()
	const payload = `{"id":9007199254740993,"long":12345678901234567890123,"d":1.10,"pi":3.14159265358979323846,"o":{"b":2.50,"a":18446744073709551615},"on":true,"e":1E2}`
	for _, c := range []struct{ value, want string }{
		{"payload.id", "9007199254740993"},
		{"payload.d", "1.10"},
		{"payload.long", "12345678901234567890123"},
		{"payload.no ?? payload.d", "1.10"},
		{"payload.on ? payload.pi : payload.no", "3.14159265358979323846"},
		{"'[payload.d, payload.long]'", "[1.10,12345678901234567890123]"},
		{"'{\"x\": payload.e}'", `{"x":1E2}`},
		{"payload.o", `{"b":2.50,"a":18446744073709551615}`},
		{"payload", payload},
		{"m", "1.10"},
		{"payload.id + 1", "9007199254740994"},
		{"string(payload.id)", "9007199254740993"},
		{"payload.d * 2", "2.2"},
	} {
		set := rulestest.Compile(t, "macros: {m: payload.no ?? payload.d}\n"+strings.Replace(ruleWith("sample: 1ms", ""), "[{kafka: {topic: t}}]",
			"\n      - {kafka: {topic: t, key: "+c.value+"}}\n      - {redis: {hash: h, set: {x: "+c.value+"}}}\n      - {redis: {string: s, value: "+c.value+"}}\n"+
				"      - {redis: {set_add: s, member: "+c.value+"}}", 1))
		out := renderOne(t, set, rulestest.Telemetry(1, rulestest.Epoch, payload))
		for i, got := range []string{string(out[0].Key), string(out[1].Redis.Fields[0].Value), string(out[2].Redis.Value), string(out[3].Redis.Member)} {
			if got != c.want {
				t.Errorf("%s: target %d: got %s, want %s", c.value, i, got, c.want)
			}
		}
		out = renderOne(t, rulestest.Compile(t, "macros: {m: payload.no ?? payload.d}\n"+ruleWith("sample: 1ms", "{x: "+c.value+"}")), rulestest.Telemetry(1, rulestest.Epoch, payload))
		want := `{"x":` + c.want + `}`
		if c.value == "string(payload.id)" {
			want = `{"x":"` + c.want + `"}`
		}
		if got := string(out[0].Value); got != want {
			t.Errorf("transform %s: got %s, want %s", c.value, got, want)
		}
	}
}

// TestKeysOfOperatorsAreExact compares values that differ in one digit, and the same number written differently.
func TestKeysOfOperatorsAreExact(t *testing.T) {
	t.Parallel()
	type msg = operatorMessage
	for _, c := range []operatorCase{
		{"dedupe: {by: payload.id, within: 60s}", []msg{
			{0, `{"id":9007199254740993}`, true},
			{1, `{"id":9007199254740992}`, true},
			{2, `{"id":9007199254740993}`, false},
			{3, `{"id":18446744073709551615}`, true},
			{4, `{"id":18446744073709551614}`, true},
			{5, `{"id":18446744073709551615.0}`, false},
			{6, `{"id":5}`, true},
			{7, `{"id":5.0}`, false},
			{8, `{"id":"5"}`, true},
			{9, `{"id":5e0}`, false},
			{10, `{"id":0.1234567890123456789}`, true},
			{11, `{"id":0.1234567890123456788}`, true},
			{12, `{"id":0.12345678901234567890}`, false},
			{13, `{"id":{"a":1,"b":9007199254740993}}`, true},
			{14, `{"id":{"b":9007199254740993,"a":1.0}}`, false},
			{15, `{"id":{"a":1,"b":9007199254740992}}`, true},
		}},
		{"on_change: payload.n", []msg{
			{0, `{"n":1.10}`, true}, {1, `{"n":1.1}`, false}, {2, `{"n":11e-1}`, false}, {3, `{"n":9007199254740993}`, true}, {4, `{"n":9007199254740992}`, true},
		}},
	} {
		r := newRig(t, rulestest.Compile(t, ruleWith(c.operator, "")))
		for i, m := range c.msgs {
			if got := r.send(m.at*1000, m.payload); got != m.decision() {
				t.Errorf("%s: message %d %s: got %q", c.operator, i, m.payload, got)
			}
		}
	}
}

// TestPreviousHasItsKind uses operator.previous in expressions after on_change.
func TestPreviousHasItsKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ of, when, first, second, want string }{
		{"payload.gear", `operator.previous == "P"`, `{"gear":"P"}`, `{"gear":"D"}`, "r/0"},
		{"payload.gear", `operator.previous == "P"`, `{"gear":"R"}`, `{"gear":"D"}`, ""},
		{"payload.n", `operator.previous > 40`, `{"n":41}`, `{"n":1}`, "r/0"},
		{"payload.n", `operator.previous > 40`, `{"n":4}`, `{"n":1}`, ""},
		{"payload.n", `operator.previous - payload.n == 1`, `{"n":9007199254740993}`, `{"n":9007199254740992}`, "r/0"},
		{"'[payload.n, payload.gear]'", `operator.previous[0] > 40`, `{"n":41}`, `{"n":1}`, "r/0"},
		{"payload.o", `operator.previous.ms == 5 and operator.previous["is"] == "x"`, `{"o":{"ms":5,"is":"x"}}`, `{"o":1}`, "r/0"},
	} {
		set := rulestest.Compile(t, ruleWith("on_change: "+c.of+"\n    threshold: {enter: '"+c.when+"'}", "{p: operator.previous}"))
		r := newRig(t, set)
		r.send(0, c.first)
		if got := r.send(1000, c.second); got != c.want {
			t.Errorf("%s: got %q", c.when, got)
		}
	}
}

// TestPreviousIsRenderedAsItWas renders a value that an operator has kept, from the stored decision.
func TestPreviousIsRenderedAsItWas(t *testing.T) {
	t.Parallel()
	for _, before := range []string{`1.10`, `12345678901234567890123`, `{"ms":5}`, `{"is":{"ms":1}}`, `"x"`, `[1.0]`} {
		set := rulestest.Compile(t, strings.Replace(ruleWith("on_change: payload.a", "{p: operator.previous}"), "[{kafka: {topic: t}}]",
			"[{kafka: {topic: t}}, {redis: {hash: h, set: {p: operator.previous}}}]", 1))
		w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
		first := rulestest.Telemetry(1, rulestest.Epoch, `{"a":`+before+`}`)
		w.Eval(&first, nil)
		rec := rulestest.Telemetry(2, rulestest.Epoch+1000, `{"a":0}`)
		for _, d := range w.Eval(&rec, nil) {
			back, _, err := DecodeDecision(d.Append(nil))
			check.OK(t, err)
			var r op.Rendered
			check.OK(t, NewRenderer(set).Render(back, &rec, &r))
			got, want := string(r.Value), `{"p":`+before+`}`
			if d.Target == 1 {
				got, want = string(r.Redis.Fields[0].Value), strings.Trim(before, `"`)
			}
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// TestTheLastOfEqualNamesCounts checks that every part of a rule reads a duplicate name in the same way.
func TestTheLastOfEqualNamesCounts(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
schema: {event_at: ts}
rules:
  - id: r
    from: ["#"]
    when: payload.a == 2 and payload.o.x == nil and payload.o.y == 1 and payload["a"] == 2 and event_at != nil and payload.l[1] == 5
    transform: {a: payload.a, all: 'toJSON(payload.o)'}
    to:
      - kafka: {topic: t, key: payload.a}
      - redis: {hash: h, fields: payload, set: {b: '"set"'}, newer_than: _at}
`)
	const p = `{"b":1,"a":1,"o":{"x":1},"ts":"x","l":[1],"a":2,"o":{"y":0,"y":1},"ts":1763600000,"b":7,"gone":1,"gone":null,"l":[4,5]}`
	for range 2 { // the second time with what the first left
		out := renderOne(t, set, rulestest.Telemetry(1, rulestest.Epoch, p))
		if got := fmt.Sprintf("%s %s", out[0].Key, out[0].Value); got != `2 {"a":2,"all":"{\"y\":1}"}` {
			t.Errorf("got %s", got)
		}
		if got := string(expr.AppendJSON(nil, set.View(&out[1]))); !strings.Contains(got, `"fields":{"a":"2","b":"set","ts":"1763600000"}`) {
			t.Errorf("got %s", got)
		}
	}
}

// TestMissingChangesNothing checks that messages that lack the field change neither Redis nor what threshold remembers.
func TestMissingChangesNothing(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - id: r
    from: ["#"]
    to:
      - redis: {hash: h, set: {soc: payload.soc, speed: payload.speed}}
      - redis: {string: s, value: payload.soc}
      - redis: {hash: h, set: {soc: payload.soc}, newer_than: _at, ttl: 1h}
      - redis: {publish: p, value: payload.soc}
      - redis: {stream: st, set: {soc: payload.soc}}
`)
	for payload, want := range map[string]string{
		`{"speed":1}`:            "false 1, true 0, true 0, true 0, true 0",
		`{"soc":null,"speed":1}`: "false 1, true 0, true 0, true 0, true 0",
		`{}`:                     "true 0, true 0, true 0, true 0, true 0",
		`{"soc":1}`:              "false 1, false 0, false 1, false 0, false 1",
	} {
		var got []string
		for _, o := range renderOne(t, set, rulestest.Telemetry(1, rulestest.Epoch, payload)) {
			got = append(got, fmt.Sprint(o.Redis.Nothing, " ", len(o.Redis.Fields)))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: got %v", payload, got)
		}
	}
	type msg = operatorMessage
	for _, c := range []operatorCase{
		{"threshold: {enter: payload.a > 5, for: 30s}", []msg{
			{0, `{"a":6}`, false},
			{10, `{}`, false},
			{20, `{"a":null}`, false},
			{31, `{}`, false},
			{32, `{"a":6}`, true},
			{33, `{}`, false},
			{64, `{"a":6}`, false},
			{65, `{"a":5}`, false},
			{66, `{"a":6}`, false},
			{67, `{"a":1}`, false},
			{97, `{"a":6}`, false},
			{127, `{"a":6}`, true},
		}},
		{"threshold: {enter: not (payload.a >= 5)}", []msg{{0, `{}`, false}, {1, `{"a":4}`, true}, {2, `{}`, false}, {3, `{"a":4}`, false}}},
		{"threshold: {enter: payload.a > 5 and payload.b == \"x\"}", []msg{
			{0, `{"a":6,"b":"x"}`, true}, {1, `{"a":6}`, false}, {2, `{"a":6,"b":"x"}`, false}, {3, `{"a":1}`, false}, {4, `{"a":6,"b":"x"}`, true}, {5, `{"b":"y"}`, false}, {6, `{"a":6,"b":"x"}`, true},
		}},
		{"threshold: {enter: 'payload.a > 5 or payload.b in [1, 2]'}", []msg{
			{0, `{"a":6}`, true}, {1, `{"a":1}`, false}, {2, `{"a":6}`, false}, {3, `{"a":1,"b":3}`, false}, {4, `{"b":1}`, true}, {5, `{"a":1,"b":3}`, false}, {6, `{"b":3}`, false}, {7, `{"a":9}`, true},
		}},
		{"threshold: {enter: 'payload.b ? payload.a > 5 : payload.a > 7'}", []msg{{0, `{"a":9}`, false}, {1, `{"a":6,"b":true}`, true}, {2, `{"a":6,"b":false}`, false}, {3, `{"a":8,"b":false}`, true}}},
		{"threshold: {enter: payload.a == nil}", []msg{{0, `{}`, true}, {1, `{"a":1}`, false}, {2, `{}`, true}}},
	} {
		r := newRig(t, rulestest.Compile(t, ruleWith(c.operator, "")))
		for i, m := range c.msgs {
			if got := r.send(m.at*1000, m.payload); got != m.decision() {
				t.Errorf("%s: message %d at %ds %s: got %q", c.operator, i, m.at, m.payload, got)
			}
		}
	}
}

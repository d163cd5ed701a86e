package engine

import (
	"path/filepath"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

// FuzzCompile checks that no text makes Compile crash, hang or return a set together with findings, and that what
// compiles can be evaluated.
func FuzzCompile(f *testing.F) {
	for _, pattern := range []string{"../lang/testdata/bad/*.rules.yaml", "../../configs/rules/*.yaml"} {
		files, err := filepath.Glob(pattern)
		check.OK(f, err)
		for _, name := range files {
			text := check.Read(f, name)
			f.Add(text)
		}
	}
	f.Add([]byte(allOperators))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 64<<10 {
			t.Skip("larger texts only take longer")
		}
		set, diags := lang.Compile(lang.NewSource(map[string][]byte{"f.rules.yaml": text}), rulestest.Options("c"))
		if (set == nil) != diags.HasErrors() {
			t.Fatalf("set %t, findings %d", set != nil, len(diags))
		}
		for _, d := range diags {
			if d.Line < 1 || d.Column < 1 || d.Code == "" || d.Rule == "" || d.Message == "" {
				t.Fatalf("incomplete finding: %+v", d)
			}
			_ = d.String()
		}
		if set == nil {
			return
		}
		evaluate(t, set, `{"soc":9,"a":1,"b":[1,{"c":null}],"lat":1,"lon":2}`)
	})
}

// evaluate sends one payload through a set and renders the decisions twice, the second time without the worker that
// decided. Both must give the same.
func evaluate(t *testing.T, set *lang.Set, payload string) {
	t.Helper()
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	for i, topic := range []string{"v1/V/up/telemetry", "v1/V/up/alarm", "a", ""} {
		rec := message.Record{Seq: uint64(i + 1), ReceivedAt: rulestest.Epoch, Kind: message.KindPublish, Topic: topic, Payload: []byte(payload)}
		for _, d := range w.Eval(&rec, nil) {
			back, _, err := DecodeDecision(d.Append(nil))
			check.OK(t, err)
			var one, two op.Rendered
			err1, err2 := w.Render(d, &rec, &one), NewRenderer(set).Render(back, &rec, &two)
			if (err1 == nil) != (err2 == nil) || (err1 == nil && string(expr.AppendJSON(nil, set.View(&one))) != string(expr.AppendJSON(nil, set.View(&two)))) {
				t.Fatalf("rule %s renders %v %v, then %v %v", set.RuleID(d.Rule), set.View(&one), err1, set.View(&two), err2)
			}
		}
	}
}

// FuzzEval checks that no payload makes a rule crash, and that rendering is repeatable.
func FuzzEval(f *testing.F) {
	for _, p := range []string{``, `{}`, `{"soc":9,"a":"x","b":{"c":[1,2]},"ts":1763600000}`, `[1]`, `{"a":1e400}`, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{"b":null,"ts":"2025-01-01T00:00:00Z"}`} {
		f.Add([]byte(p))
	}
	set := rulestest.Compile(f, `
lists: {kinds: [x, y]}
schema: {event_at: ts}
rules:
  - id: all
    from: ["#"]
    when: |
      (payload.a < 5 or payload.a contains "x" or payload.b.c[0] in kinds or late_ms > 0 or true)
        and len(string(payload.b)) >= 0
    on_change: '[payload.a, payload.b, raw]'
    transform: {a: payload.a, b: payload, c: 'toJSON(payload)', d: payload.a + payload.b, e: operator.previous, f: [event_at, raw]}
    to:
      - kafka: {topic: "t.${payload.a in kinds}", key: payload.a}
      - redis: {hash: "h:${vin}", fields: payload, set: {x: payload.a * 2}, newer_than: _at}
      - redis: {geo: g, lon: payload.lon, lat: payload.lat}
      - redis: {stream: s}
  - {id: dedupe, from: ["#"], dedupe: {by: payload.a, within: 1s}, to: [{kafka: {topic: t}}]}
  - {id: fence, from: ["#"], geofence: {lat: payload.a, lon: payload.b, zones: {z: {lat: 1, lon: 1, radius: 10}}}, to: [{kafka: {topic: t}}]}
`)
	f.Fuzz(func(t *testing.T, payload []byte) { evaluate(t, set, string(payload)) })
}

// FuzzState checks that no stored state makes Load crash, and that what it accepts is stored as the same bytes.
func FuzzState(f *testing.F) {
	st := state.NewState(state.StateOptions{})
	w := NewEngine(rulestest.Compile(f, allOperators), st).NewWorker()
	for _, rec := range traffic(100) {
		w.Eval(&rec, nil)
	}
	for _, data := range taken(st) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := state.NewState(state.StateOptions{})
		if s.Load("V", data) != nil {
			return
		}
		again := s.Export("V")
		if again != nil && state.NewState(state.StateOptions{}).Load("V", again) != nil {
			t.Fatal("what was loaded cannot be loaded again")
		}
	})
}

// FuzzLoad checks that no files of rules, zones and tables make the loader crash, hang or return a set together with
// errors. What compiles is stored, compiles to the same set again, and can be evaluated.
func FuzzLoad(f *testing.F) {
	files := dataFiles()
	f.Add(files["sub/a.rules.yaml"], files["sub/data/depots.geojson"], files["sub/models.csv"])
	f.Add([]byte("schema: {fields: {a: {number: [0, 5], outside: missing}}}\nrules: []"), []byte(`{"type":"Polygon"}`), []byte("a\n"))
	f.Fuzz(func(t *testing.T, rules, zones, table []byte) {
		if len(rules)+len(zones)+len(table) > 64<<10 {
			t.Skip("larger texts only take longer")
		}
		src := lang.NewSource(map[string][]byte{"sub/a.rules.yaml": rules, "sub/data/depots.geojson": zones, "sub/models.csv": table})
		set, found := lang.Compile(src, rulestest.Options("c"))
		if (set == nil) != found.HasErrors() {
			t.Fatalf("set %t, findings %d", set != nil, len(found))
		}
		for _, d := range found {
			if d.Line < 1 || d.Column < 1 || d.Level == "" || d.Code == "" || d.Rule == "" || d.Message == "" {
				t.Fatalf("incomplete finding: %+v", d)
			}
		}
		if set == nil {
			return
		}
		back, err := lang.UnmarshalSource(src.Marshal())
		check.OK(t, err)
		again, found := lang.Compile(back, stored("c"))
		if again == nil || again.Hash() != set.Hash() {
			t.Fatalf("what was stored does not compile: %v", found)
		}
		evaluate(t, set, `{"a":1,"lat":5,"lon":5,"fuel":1e3,"speed":9007199254740993}`)
	})
}

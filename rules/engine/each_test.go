package engine

import (
	"strings"
	"testing"

	"cellgate/rules/expr"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

// TestEachElementIsAMessage checks that an element that cannot be evaluated does not stop the others, that a value that
// is not a list or too long is an error, and that numbers keep their digits.
func TestEachElementIsAMessage(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `rules: [{id: e, from: ["#"], each: payload.list, when: item.level > 2, to: [{kafka: {topic: t, key: item.code}}]}]`)
	long := `{"list":[` + strings.TrimSuffix(strings.Repeat(`{"level":3},`, expr.MaxItems+1), ",") + `]}`
	for payload, want := range map[string]string{
		`{}`:            "",
		`{"list":null}`: "",
		`{"list":[]}`:   "",
		`{"list":[{"level":1},{"level":3,"code":9007199254740993},{"level":4,"x":1.50}]}`: "1 9007199254740993 {\"level\":3,\"code\":9007199254740993}\n2 V {\"level\":4,\"x\":1.50}\n",
		`{"list":[{"level":3,"code":"a"},{"level":"high"},{"level":5,"code":"b"}]}`:       "0 a {\"level\":3,\"code\":\"a\"}\n2 b {\"level\":5,\"code\":\"b\"}\nerror\n",
		`{"list":[{"level":3,"level":1},{"level":1,"code":"a","level":3,"code":"b"}]}`:    "1 b {\"level\":1,\"code\":\"a\",\"level\":3,\"code\":\"b\"}\n",
		`{"list":7}`: "error\n",
		long:         "error\n",
	} {
		w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
		rec := rulestest.Telemetry(1, rulestest.Epoch, payload)
		rec.Topic = "v1/V/up/t"
		var got strings.Builder
		for _, d := range w.Eval(&rec, nil) {
			if d.Err != "" {
				got.WriteString("error\n")
				continue
			}
			var live, later op.Rendered
			check.OK(t, w.Render(d, &rec, &live))
			if err := NewRenderer(set).Render(d, &rec, &later); err != nil || string(later.Value) != string(live.Value) {
				t.Fatalf("%s, later %s, %v", live.Value, later.Value, err)
			}
			for _, h := range live.Headers {
				if h.Name == "item" {
					got.WriteString(h.Value + " ")
				}
			}
			got.WriteString(string(live.Key) + " " + string(live.Value) + "\n")
		}
		if got.String() != want {
			t.Errorf("%.80s gives\n%s, want\n%s", payload, got.String(), want)
		}
	}
}

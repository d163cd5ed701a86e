package engine

import (
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// twice passes each message two times.
type twice struct{ op.Runner }

func (twice) Run(_ *op.Input, out *op.Outputs) error {
	for i := range 2 {
		out.Give("n", i)
		out.Pass()
	}
	return nil
}

// TestAnOperatorGivesAnyNumberOfOutputs checks that each output continues through the following operators, with the
// values given so far.
func TestAnOperatorGivesAnyNumberOfOutputs(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `rules: [{id: r, from: ["#"], on_change: payload.x, count: {at_least: 3, window: 1h}, transform: operator.count, to: [{kafka: {topic: t}}]}]`)
	r := set.Compiled[0]
	r.Operators[0] = &lang.Operator{Operator: r.Operators[0].Operator, Runner: twice{}}
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	for i, want := range []int{0, 1, 1} {
		rec := rulestest.Telemetry(uint64(i+1), rulestest.Epoch, `{"x":1}`)
		ds := w.Eval(&rec, nil)
		if len(ds) != want {
			t.Fatalf("message %d: %d decisions, want %d", i, len(ds), want)
		}
		if want > 0 && string(ds[0].Values) == "" {
			t.Errorf("message %d: no values", i)
		}
	}
}

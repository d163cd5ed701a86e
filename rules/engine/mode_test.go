package engine

import (
	"fmt"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// TestArmsOfAnExperiment checks that canary and control have the size of their share and no vehicle in common, that
// another salt selects other vehicles, and that no salt selects the same vehicles as versions without salts.
func TestArmsOfAnExperiment(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - {id: plain, from: ["#"], to: [{kafka: {topic: t}}], mode: {canary: 10%}}
  - {id: canary, from: ["#"], to: [{kafka: {topic: t}}], mode: {canary: 10%, salt: exp7}}
  - {id: control, from: ["#"], to: [{kafka: {topic: t}}], mode: {canary: 10%, salt: exp7, arm: control}}
  - {id: other, from: ["#"], to: [{kafka: {topic: t}}], mode: {canary: 10%, salt: exp8, arm: canary}}
`)
	if mode := set.Rules()[2].Mode; mode != "canary 10%, salt exp7, arm control" {
		t.Errorf("mode %q", mode)
	}
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	const vehicles = 20_000
	var n [4]int
	both := map[[2]uint16]int{}
	for i := range vehicles {
		vin := fmt.Sprintf("LTEST%012d", i)
		rec := message.Record{Seq: uint64(i + 1), Kind: message.KindPublish, Topic: "v1/" + vin + "/up/x", Payload: []byte("{}")} //nolint:gosec // an index
		ds := w.Eval(&rec, nil)
		for _, d := range ds {
			n[d.Rule]++
			for _, other := range ds {
				both[[2]uint16{d.Rule, other.Rule}]++
			}
			if d.Rule == 0 && message.Hash(vin)%10_000 >= 1000 {
				t.Fatalf("%s was not among the 10 %%", vin)
			}
		}
	}
	for i, got := range n {
		if got < vehicles/10*8/10 || got > vehicles/10*12/10 {
			t.Errorf("rule %d acts on %d of %d vehicles", i, got, vehicles)
		}
	}
	if got := both[[2]uint16{1, 2}]; got != 0 {
		t.Errorf("%d vehicles are in both arms", got)
	}
	for _, pair := range [][2]uint16{{0, 1}, {1, 3}} {
		if got := both[pair]; got < vehicles/100/2 || got > vehicles/100*2 {
			t.Errorf("%d vehicles are in both experiments %v, a hundredth is expected", got, pair)
		}
	}
}

package engine

import (
	"encoding/json"
	"slices"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// FuzzLimits checks that for any limit records in a journal, and any stops and restarts, a rule sends nothing while it
// is held and all of its messages otherwise, and that a hold is requested only because of too many errors.
func FuzzLimits(f *testing.F) {
	set := rulestest.Compile(f, `rules:
  - {id: some, from: ["v1/+/up/telemetry"], when: payload.a > 0, to: [{kafka: {topic: t}}], limits: {errors: 10% per 10s then shadow}}
  - {id: none, from: ["v1/+/up/telemetry"], when: payload.a > 0, to: [{kafka: {topic: t}}]}
`)
	version := set.Compiled[0].Version
	many := make([]byte, 0, 600)
	for i := range 200 {
		many = append(many, byte(i%2), byte(i), 1)
	}
	f.Add(many, []byte(`{"rule":"some","version":"v"}`))
	f.Add(append(many, 2, 0, 30, 0, 1, 1, 3, 0, 1, 5, 0, 1, 2, 0, 1), []byte(`{}`))
	f.Fuzz(func(t *testing.T, script, payload []byte) {
		if len(script) > 3000 {
			t.Skip("longer ones only take longer")
		}
		var asked []message.Limit
		start := func(stored *StoredLimits) (*Limits, *Worker) {
			l := &Limits{Exceeded: func(x message.Limit) { asked = append(asked, x) }}
			if stored != nil {
				l.Load(stored, false)
			}
			w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
			l.Use(set.Compiled, []Counter{w})
			return l, w
		}
		limits, w := start(nil)
		rec := message.Record{ReceivedAt: rulestest.Epoch}
		for ; len(script) >= 3; script = script[3:] {
			rec.Seq, rec.ReceivedAt = rec.Seq+1, rec.ReceivedAt+int64(script[2])*100
			switch script[0] % 6 {
			case 0, 1:
				vin := "VIN" + string(rune('A'+script[1]%26))
				rec.Kind, rec.Topic, rec.Payload = message.KindPublish, "v1/"+vin+"/up/telemetry", []byte(`{"a":1}`)
				if script[0]%6 == 1 {
					rec.Payload = []byte(`{"a":"x"}`)
				}
				limits.Reach(rec.ReceivedAt, rec.Seq)
				want := []uint16{0, 1}
				if limits.States()[0].Held != nil {
					want = want[1:]
				}
				var got []uint16
				for _, d := range w.Eval(&rec, nil) {
					if !d.Shadow {
						got = append(got, d.Rule)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("rules %v send, want %v, with %+v", got, want, limits.States())
				}
				continue
			case 2:
				if len(asked) == 0 {
					continue
				}
				if x := asked[0]; x.Rule != "some" || x.Version != version || x.Messages < minLimited || x.Errors*10 <= x.Messages {
					t.Fatalf("asked for %+v", x)
				}
				rec.Payload, asked = asked[0].Record().Payload, asked[1:]
			case 3:
				rec.Payload = message.Limit{Rule: "some", Version: version, Lifted: true}.Record().Payload
			case 4:
				rec.Payload = payload
			default:
				text, err := json.Marshal(limits.Store())
				var back StoredLimits
				if err != nil || json.Unmarshal(text, &back) != nil {
					t.Fatalf("%s: %v", text, err)
				}
				limits, w = start(&back)
				continue
			}
			rec.Kind = message.KindLimit
			before := limits.States()[0].Held != nil
			is, changed, err := limits.Apply(&rec)
			if held := limits.States()[0].Held != nil; changed != (held != before) || changed && (err != nil || held == is.Lifted || is.Rule != "some") {
				t.Fatalf("%s: held %t, then %t; changed %t, %v", rec.Payload, before, held, changed, err)
			}
		}
	})
}

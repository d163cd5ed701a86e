package engine

import (
	"strconv"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

func payload256(soc string) []byte {
	p := `{"ts":1763600000123,"soc":` + soc + `,"speed":52.13,"lat":31.230416,"lon":121.473701,"odometer":18233.4,"gear":"D","power":18.42,"battery_temp":27.5,"cabin_temp":22,"charging":false,"range":311.5,"pad":"`
	return []byte(p + strings.Repeat("x", 256-len(p)-2) + `"}`)
}

// benchRecords returns messages of many vehicles, one second apart.
func benchRecords() []message.Record {
	recs := make([]message.Record, 1024)
	for i := range recs {
		vin := "LTEST" + strconv.Itoa(1_000_000_000_00+i%200)
		recs[i] = rulestest.Telemetry(uint64(i+1), rulestest.Epoch+int64(i/200)*1000, "")
		recs[i].Topic, recs[i].Client = "v1/"+vin+"/up/telemetry", vin
		recs[i].Payload = payload256(strconv.Itoa(30 + i%50))
	}
	return recs
}

// BenchmarkEvalSamples evaluates the sample rules on one message of 256 bytes.
func BenchmarkEvalSamples(b *testing.B) {
	w := NewEngine(rulestest.Samples(b), state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out = w.Eval(&recs[i%len(recs)], out[:0])
	}
}

// BenchmarkRender evaluates the sample rules on a message and renders all decisions.
func BenchmarkRender(b *testing.B) {
	w := NewEngine(rulestest.Samples(b), state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	var r op.Rendered
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		rec := &recs[i%len(recs)]
		out = w.Eval(rec, out[:0])
		for _, d := range out {
			check.OK(b, w.Render(d, rec, &r))
		}
	}
}

// BenchmarkEvalManyRules evaluates a message with a thousand rules on other topics.
func BenchmarkEvalManyRules(b *testing.B) {
	var text strings.Builder
	text.WriteString("rules:\n")
	for i := range 1000 {
		text.WriteString("  - {id: r" + strconv.Itoa(i) + ", from: [\"v1/+/up/class" + strconv.Itoa(i) + "\"], when: payload.x > 1, to: [{kafka: {topic: t}}]}\n")
	}
	w := NewEngine(rulestest.Compile(b, text.String()), state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out = w.Eval(&recs[i%len(recs)], out[:0])
	}
}

func TestEvalDoesNotAllocate(t *testing.T) {
	w := NewEngine(rulestest.Samples(t), state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	i := 0
	eval := func() {
		for range recs {
			out = w.Eval(&recs[i%len(recs)], out[:0])
			i++
		}
	}
	eval()
	if n := testing.AllocsPerRun(5, eval) / float64(len(recs)); n > 0.01 {
		t.Errorf("%.3f allocations per message through the sample rules", n)
	}
	other := rulestest.Telemetry(1, rulestest.Epoch, `{"soc":1}`)
	other.Topic = "v1/" + rulestest.VIN + "/up/event"
	if n := testing.AllocsPerRun(100, func() { out = w.Eval(&other, out[:0]) }); n != 0 {
		t.Errorf("%v allocations for a message that no rule matches", n)
	}
}

// TestRenderAllocatesOnlyTheKey checks that evaluating and rendering the sample rules allocates once per message: for
// the Redis key.
func TestRenderAllocatesOnlyTheKey(t *testing.T) {
	w := NewEngine(rulestest.Samples(t), state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	var r op.Rendered
	i := 0
	render := func() {
		for range recs {
			rec := &recs[i%len(recs)]
			out = w.Eval(rec, out[:0])
			for _, d := range out {
				check.OK(t, w.Render(d, rec, &r))
			}
			i++
		}
	}
	render()
	if n := testing.AllocsPerRun(5, render) / float64(len(recs)); n > 1.01 {
		t.Errorf("%.3f allocations per message", n)
	}
}

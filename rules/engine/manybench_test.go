package engine

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// manyRules returns n rules on one topic with different conditions. Three of them match every message of benchRecords.
func manyRules(n int) string {
	var text strings.Builder
	text.WriteString("macros: {moving: payload.speed > 5 and payload.gear != \"P\"}\nrules:\n")
	conditions := []string{
		`payload.soc < -%d`,
		`payload.odometer == 100000 + %d`,
		`payload.gear == "X%d"`,
		`payload.speed > 300 + %d and payload.gear == "D"`,
		`payload.battery_temp >= 100 + %d and payload.battery_temp < 101 + %[1]d`,
		`payload.gear in ["A%d", "B%[1]d"]`,
		`vin == "LX%d" and payload.soc < 15`,
		`payload.fault%d != nil and payload.soc < 50`,
		`payload.cabin_temp > 60 + %d or payload.range < -%[1]d`,
		`moving and payload.power > 500 + %d`,
	}
	for i := range n {
		when := fmt.Sprintf(conditions[i%len(conditions)], i)
		switch i {
		case n / 4:
			when = `payload.soc > 10`
		case n / 2:
			when = `payload.gear == "D"`
		case n - 1:
			when = `payload.speed > 50 and payload.soc >= 30 and payload.soc < 80`
		}
		fmt.Fprintf(&text, "  - {id: r%d, from: [\"v1/+/up/telemetry\"], when: '%s', to: [{kafka: {topic: t}}]}\n", i, when)
	}
	return text.String()
}

// sized pads the payloads of records to size bytes.
func sized(recs []message.Record, size int) []message.Record {
	for i := range recs {
		p := recs[i].Payload
		recs[i].Payload = []byte(string(p[:len(p)-2]) + strings.Repeat("x", max(0, size-len(p))) + `"}`)
	}
	return recs
}

// BenchmarkOneTopic evaluates a message with rules that are all on its topic; three of them match.
func BenchmarkOneTopic(b *testing.B) {
	for _, rules := range []int{10, 100, 1000, 5000} {
		set := rulestest.Compile(b, manyRules(rules))
		for _, size := range []int{256, 1024} {
			b.Run(fmt.Sprintf("%drules/%dB", rules, size), func(b *testing.B) {
				w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
				recs := sized(benchRecords(), size)
				var out []Decision
				b.ReportAllocs()
				before := cpu()
				for i := 0; b.Loop(); i++ {
					if out = w.Eval(&recs[i%len(recs)], out[:0]); len(out) != 3 {
						b.Fatalf("%d decisions", len(out))
					}
				}
				b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/msg")
			})
		}
	}
}

// cpu returns the process's CPU time, which other processes disturb less than wall time.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCompileMany measures a reload of many rules.
func BenchmarkCompileMany(b *testing.B) {
	for _, rules := range []int{1000, 5000} {
		text := manyRules(rules)
		b.Run(fmt.Sprintf("%drules", rules), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rulestest.Compile(b, text)
			}
		})
	}
}

// BenchmarkCommonClause evaluates a message with rules that share a calculation, which does not hold, followed by a
// comparison.
func BenchmarkCommonClause(b *testing.B) {
	var text strings.Builder
	text.WriteString("rules:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "  - {id: r%d, from: [\"v1/+/up/telemetry\"], when: payload.speed * 3.6 > 1000 and payload.soc > %d, to: [{kafka: {topic: t}}]}\n", i, i)
	}
	w := NewEngine(rulestest.Compile(b, text.String()), state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	b.ReportAllocs()
	before := cpu()
	for i := 0; b.Loop(); i++ {
		out = w.Eval(&recs[i%len(recs)], out[:0])
	}
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/msg")
}

// BenchmarkEvalParallel evaluates messages with several workers at once, each with its own shards. It measures the
// engine alone, without journal and sinks. ns/op is the time per message over all workers.
func BenchmarkEvalParallel(b *testing.B) {
	samples, many := rulestest.Samples(b), rulestest.Compile(b, manyRules(1000))
	for _, set := range []struct {
		name string
		set  *lang.Set
	}{{"samples", samples}, {"1000rules", many}} {
		for _, workers := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/%dworkers", set.name, workers), func(b *testing.B) {
				e := NewEngine(set.set, state.NewState(state.StateOptions{}))
				b.ReportAllocs()
				before := cpu()
				var all sync.WaitGroup
				for k := range workers {
					w, recs := e.NewWorker(), recordsOf(k, workers)
					all.Go(func() {
						var out []Decision
						for i := k; i < b.N; i += workers {
							out = w.Eval(&recs[i/workers%len(recs)], out[:0])
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/msg")
			})
		}
	}
}

// recordsOf returns the messages of benchRecords whose shards belong to worker k of n.
func recordsOf(k, n int) (recs []message.Record) {
	for _, r := range benchRecords() {
		if state.ShardOf(r.VIN())%n == k {
			recs = append(recs, r)
		}
	}
	return recs
}

package engine

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// BenchmarkPlaces evaluates a message with 1,000 rules that ask for zones or table columns: 250 different zones, or all
// the same one. One rule matches.
func BenchmarkPlaces(b *testing.B) {
	var zones, own, same, column strings.Builder
	zones.WriteString("zones:\n")
	for i := range 250 {
		fmt.Fprintf(&zones, "  z%d: {lat: %d.23, lon: %d.47, radius: 5000}\n", i, i%60, i*7%170)
	}
	for i := range 1000 {
		fmt.Fprintf(&own, "  - {id: r%d, from: [\"v1/+/up/telemetry\"], when: 'inside(payload.lat, payload.lon, z%d) and payload.speed > %d', to: [{kafka: {topic: t}}]}\n", i, i%250, i%90)
		fmt.Fprintf(&same, "  - {id: r%d, from: [\"v1/+/up/telemetry\"], when: 'inside(payload.lat, payload.lon, z513) and payload.odometer < %d', to: [{kafka: {topic: t}}]}\n", i, i)
		fmt.Fprintf(&column, "  - {id: r%d, from: [\"v1/+/up/telemetry\"], when: 'models[vin].kind == \"k%d\"', to: [{kafka: {topic: t}}]}\n", i, i)
	}
	table := "vin,kind\n"
	for i := range 100_000 {
		table += fmt.Sprintf("LTEST%d,k%d\n", 1_000_000_000_00+i, i%1000)
	}
	for name, rules := range map[string]string{
		"zones": zones.String() + "rules:\n" + own.String(), "one-zone": "zones: {z513: {lat: 31.23, lon: 121.47, radius: 5000}}\nrules:\n" + same.String(),
		"column": "tables: {models: {file: models.csv, key: vin}}\nrules:\n" + column.String(),
	} {
		b.Run(name, func(b *testing.B) {
			benchFiles(b, map[string][]byte{"a.rules.yaml": []byte(rules), "models.csv": []byte(table)})
		})
	}
}

func benchFiles(b *testing.B, files map[string][]byte) {
	b.Helper()
	set, found := lang.Compile(lang.NewSource(files), rulestest.Options(""))
	if set == nil {
		b.Fatal(found)
	}
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	recs := benchRecords()
	var out []Decision
	b.ReportAllocs()
	before := cpu()
	for i := 0; b.Loop(); i++ {
		out = w.Eval(&recs[i%len(recs)], out[:0])
	}
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/msg")
}

// largestZone returns a GeoJSON polygon of 20,000 positions around the vehicle of benchRecords.
func largestZone() []byte {
	var text strings.Builder
	text.WriteString(`{"type":"Polygon","coordinates":[[`)
	const points = 19_999
	for i := range points + 1 {
		if i > 0 {
			text.WriteByte(',')
		}
		a := 2 * math.Pi * float64(i%points) / points
		r := 1 + 0.3*math.Sin(20*a)
		fmt.Fprintf(&text, "[%.6f,%.6f]", 121.47+r*math.Cos(a), 31.23+r*math.Sin(a))
	}
	text.WriteString("]]}")
	return []byte(text.String())
}

// BenchmarkLargestZone evaluates a message within the largest zone that a file may have, and compiles its set.
func BenchmarkLargestZone(b *testing.B) {
	files := map[string][]byte{
		"a.rules.yaml": []byte("zones: {big: {file: big.geojson}}\nrules:\n  - {id: r, from: [\"v1/+/up/telemetry\"], when: 'inside(payload.lat, payload.lon, big)', to: [{kafka: {topic: t}}]}\n"),
		"big.geojson":  largestZone(),
	}
	b.Run("message", func(b *testing.B) { benchFiles(b, files) })
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			if set, found := lang.Compile(lang.NewSource(files), rulestest.Options("")); set == nil {
				b.Fatal(found)
			}
		}
	})
}

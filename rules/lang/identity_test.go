package lang

import (
	"maps"
	"slices"
	"testing"

	"cellgate/rules/op"
)

// TestOperatorsKeepTheirIdentity pins the keys of stored memories. If a version changed them, operators would lose
// their state.
func TestOperatorsKeepTheirIdentity(t *testing.T) {
	t.Parallel()
	const text = `lists: {l: [1, 2]}
macros: {low: payload.soc < 15}
rules:
  - {id: g, from: ["#"], geofence: {lat: payload.lat, lon: payload.lon, on: enter, zones: {a: {lat: 1, lon: 2, radius: 5}, b: {polygon: [[0, 0], [0, 3], [3, 3]]}}}, to: [{kafka: {topic: t}}]}
  - {id: o, from: ["#"], on_change: payload.gear, to: [{kafka: {topic: t}}]}
  - {id: d, from: ["#"], dedupe: {by: payload.id, within: 1m}, to: [{kafka: {topic: t}}]}
  - {id: t, from: ["#"], threshold: {enter: low and payload.a in l, exit: payload.soc > 20, for: 30s}, to: [{kafka: {topic: t}}]}
  - {id: c, from: ["#"], count: {at_least: 3, window: 10m}, to: [{kafka: {topic: t}}]}
  - {id: s, from: ["#"], sample: 10s, rate_limit: {count: 3, per: 1m}, to: [{kafka: {topic: t}}]}
`
	set, found := Compile(NewSource(map[string][]byte{"a.rules.yaml": []byte(text)}), Options{Cell: "c", Targets: op.Targets{&op.Kafka}})
	if found.HasErrors() {
		t.Fatal(found)
	}
	want := []uint64{
		0xa0222e4e3fc9127,
		0x6315c67a824689ef,
		0x65f468bcf1139dc7,
		0x9e4b310f1c7fc9ba,
		0xa8ecf9d5c5fbb314,
		0xadee8aeaf8e0e0d5,
		0xc75194f327a8fa97,
	}
	if got := slices.Sorted(maps.Keys(set.OperKeys)); !slices.Equal(got, want) {
		t.Errorf("got %#x", got)
	}
}

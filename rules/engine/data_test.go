package engine

import (
	"maps"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

// dataFiles returns rules with zones and tables, inline and from files.
func dataFiles() map[string][]byte {
	return map[string][]byte{
		"sub/a.rules.yaml": []byte(`
zones:
  harbour: {polygon: [[30.60, 122.03], [30.66, 122.03], [30.66, 122.12], [30.60, 122.12]]}
  gate: {lat: 31.2, lon: 121.4, radius: 500}
  depots: {file: data/depots.geojson}
tables: {models: {file: models.csv, key: vin}}
rules:
  - {id: harbour, from: ["#"], when: 'inside(payload.lat, payload.lon, harbour) and payload.speed > 60', to: [{kafka: {topic: t}}]}
  - {id: gate, from: ["#"], when: 'inside(payload.lat, payload.lon, gate)', to: [{kafka: {topic: t}}]}
  - {id: depots, from: ["#"], when: 'not inside(payload.lat, payload.lon, depots) and payload.lat != nil', to: [{kafka: {topic: t}}]}
  - {id: tank, from: ["#"], when: 'payload.fuel / models[vin].tank < 0.1', to: [{kafka: {topic: t}}]}
  - {id: kind, from: ["#"], when: 'models[vin].kind == "van" and models[vin].sold == true and models[payload.no].tank == nil', to: [{kafka: {topic: t}}]}
  - {id: leave, from: ["#"], threshold: {enter: 'inside(payload.lat, payload.lon, gate)'}, to: [{kafka: {topic: t}}]}
`),
		"sub/data/depots.geojson": []byte(`{"type":"FeatureCollection","features":[
 {"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,10],[0,10],[0,0]],[[4,4],[6,4],[6,6],[4,6],[4,4]]]}},
 {"type":"Feature","geometry":{"type":"MultiPolygon","coordinates":[[[[20,0],[30,0],[30,10],[20,0]]],[[[5,5],[5.5,5],[5.5,5.5],[5,5]]]]}},
 {"type":"Feature","geometry":null}]}`),
		"sub/models.csv": []byte("vin,kind,tank,sold\n" + rulestest.VIN + ",van,50.5,true\n\"OTHER\",\"a, \"\"b\"\"\",,false\n"),
	}
}

func TestZonesAndTables(t *testing.T) {
	t.Parallel()
	set, found := lang.Compile(lang.NewSource(dataFiles()), rulestest.Options(""))
	if len(found) > 0 {
		t.Fatal(found)
	}
	r := newRig(t, set)
	for _, c := range []struct{ payload, want string }{
		{`{"lat":30.61,"lon":122.1,"speed":61}`, "harbour/0 depots/0 kind/0"},
		{`{"lat":30.61,"lon":122.1,"speed":60}`, "depots/0 kind/0"},
		{`{"lat":30.61,"lon":122.13,"speed":61}`, "depots/0 kind/0"},
		{`{"lat":31.2,"lon":121.404}`, "gate/0 depots/0 kind/0 leave/0"},
		{`{"speed":61}`, "kind/0"},
		{`{"lat":31.2,"lon":121.404}`, "gate/0 depots/0 kind/0"},
		{`{"lat":1,"lon":1}`, "kind/0"},
		{`{"lat":4.5,"lon":4.5}`, "depots/0 kind/0"},
		{`{"lat":5.2,"lon":5.3}`, "kind/0"},
		{`{"lat":1,"lon":29}`, "kind/0"},
		{`{"lat":9,"lon":21}`, "depots/0 kind/0"},
		{`{"fuel":5}`, "tank/0 kind/0"},
		{`{"fuel":6}`, "kind/0"},
		{`{"lat":"x","lon":1}`, "harbour/error gate/error depots/error kind/0 leave/error"},
	} {
		if got := r.send(0, c.payload); got != c.want {
			t.Errorf("%s: got %q, want %q", c.payload, got, c.want)
		}
	}
	if got := r.sendTo("v1/NOBODY/up/telemetry", 0, `{"fuel":5}`); got != "" {
		t.Errorf("a vehicle that is not in the table: %q", got)
	}
}

// TestDataFilesArePartOfTheSet checks that the stored form compiles to the same set, and that a different data file
// makes a different set with different operators.
func TestDataFilesArePartOfTheSet(t *testing.T) {
	t.Parallel()
	src := lang.NewSource(dataFiles())
	set, _ := lang.Compile(src, rulestest.Options(""))
	back, err := lang.UnmarshalSource(src.Marshal())
	check.OK(t, err)
	again, found := lang.Compile(back, stored(""))
	if again == nil || again.Hash() != set.Hash() || !maps.Equal(again.OperKeys, set.OperKeys) {
		t.Fatal(found)
	}
	files := dataFiles()
	files["sub/models.csv"] = append(files["sub/models.csv"], "X,van,1,true\n"...)
	files["sub/a.rules.yaml"] = []byte(strings.Replace(string(files["sub/a.rules.yaml"]), "radius: 500", "radius: 501", 1))
	other, _ := lang.Compile(lang.NewSource(files), rulestest.Options(""))
	if other.Hash() == set.Hash() || maps.Equal(other.OperKeys, set.OperKeys) {
		t.Error("other data are the same set, or another zone the same operator")
	}
}

// stored returns the options for a set stored by an earlier version.
func stored(cell string) lang.Options {
	o := rulestest.Options(cell)
	o.Stored = true
	return o
}

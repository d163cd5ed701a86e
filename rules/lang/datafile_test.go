package lang_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

const withData = "zones: {z: {file: sub/z.geojson}}\ntables: {t: {file: t.csv, key: k}}\n" +
	"rules: [{id: r, from: [\"#\"], when: 'inside(payload.lat, payload.lon, z) and t[vin].v > 1', to: [{kafka: {topic: t}}]}]\n"

// TestLoadTakesWhatRulesName checks that the files of zones and tables are read with the rules, and no others.
func TestLoadTakesWhatRulesName(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": withData, "t.csv": "k,v\na,1\n", "other.csv": "x"})
	check.OK(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	zone := filepath.Join(dir, "sub", "z.geojson")
	check.OK(t, os.WriteFile(zone, []byte(`{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}`), 0o600))
	for _, root := range []string{dir, filepath.Join(dir, "a.rules.yaml")} {
		src, err := lang.Load(root)
		check.OK(t, err)
		if got := src.Files(); !slices.Equal(got, []string{"a.rules.yaml", "sub/z.geojson", "t.csv"}) {
			t.Errorf("%s: files %v", root, got)
		}
		if set, found := lang.Compile(src, rulestest.Options("")); set == nil {
			t.Errorf("%s: %v", root, found)
		}
	}
	check.OK(t, os.WriteFile(zone, make([]byte, lang.MaxDataBytes+1), 0o600))
	if _, err := lang.Load(dir); !errors.Is(err, lang.ErrDataTooLarge) || !strings.Contains(err.Error(), "4 MiB") || !strings.Contains(err.Error(), "sub/z.geojson") {
		t.Errorf("a large file: %v", err)
	}
}

// TestPipesAreNotRead checks that pipes are refused: opening one waits for a writer and would block a reload.
func TestPipesAreNotRead(t *testing.T) {
	t.Parallel()
	for name, pipe := range map[string]string{"rules": "b.rules.yaml", "tests": "a_test.yaml", "a table": "t.csv"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": strings.ReplaceAll(withData, "sub/z", "z"), "z.geojson": "{}"})
			check.OK(t, syscall.Mkfifo(filepath.Join(dir, pipe), 0o600))
			if _, err := lang.LookFolder(dir); err == nil || !strings.Contains(err.Error(), pipe+" is not a regular file") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestBadDataFiles checks the messages for unusable files of zones and tables, with file and line.
func TestBadDataFiles(t *testing.T) {
	t.Parallel()
	const zone, table = `{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}`, "k,v\na,1\n"
	polygon := func(points int) string {
		return `{"type":"Polygon","coordinates":[[` + strings.Repeat("[0,0],", points) + `[0,0]]]}`
	}
	for _, c := range []struct{ zone, table, want string }{
		{"{\n\"type\": \"Polygon\",\n oops}", table, "sub/z.geojson:3:1: error[R048] zone z: this is not JSON"},
		{`[]`, table, "sub/z.geojson:1:1: error[R048] zone z: this is not GeoJSON"},
		{`{"type":"Feature","geometry":{"type":"Point","coordinates":[0,0]}}`, table, "zone z: a Point encloses nothing"},
		{`{"type":"FeatureCollection","features":[]}`, table, "zone z: the file has no Polygon and no MultiPolygon"},
		{`{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[0,0],[200,0],[1,1],[0,0]]]}}]}`, table, "feature 1: ring 1, position 2 is not [longitude, latitude]"},
		{`{"type":"MultiPolygon","coordinates":[[[[0,0],[1,1],[0,0]]]]}`, table, "polygon 1: ring 1 has fewer than 4 positions"},
		{`{"type":"Polygon"}`, table, "a polygon without coordinates"},
		{`{"type":"Polygon","coordinates":[[["a","b"],[1,0],[1,1],[0,0]]]}`, table, "position 1 is not"},
		{polygon(20_000), table, "more than 20000 points"},
		{strings.Repeat(`{"type":"GeometryCollection","geometries":[`, 20) + strings.Repeat("]}", 20), table, "more than 8 deep"},
		{zone, "", "t.csv:1:1: error[R055] table t: the first line must name the columns"},
		{zone, "a,v\n", "table t: there is no column \"k\"; the first line has: a, v"},
		{zone, "k,v\na,1\nb\n", "t.csv:3:1: error[R055] table t: this row does not have 2 cells"},
		{zone, "k,v\na,1\nb,\"x\n", "t.csv:"},
		{zone, "k,v\na,1\na,2\n", "t.csv:3:1: error[R055] table t: the key \"a\" is empty or occurs twice"},
		{zone, "k,k\n", "column 2 has no unique name"},
		{zone, "k" + strings.Repeat(",c", 70) + "\n", "more than 64 columns"},
		{zone, "k,v\n" + manyRows(100_001), "more than 100000 rows"},
		{zone, "k,w\na,1\n", "a.rules.yaml:3:"},
		{"", table, "a.rules.yaml:1:19: error[R055] zone z: there is no file \"sub/z.geojson\""},
	} {
		files := map[string][]byte{"a.rules.yaml": []byte(withData), "t.csv": []byte(c.table)}
		if c.zone != "" {
			files["sub/z.geojson"] = []byte(c.zone)
		}
		set, found := lang.Compile(lang.NewSource(files), rulestest.Options(""))
		if set != nil || len(found) != 1 || !strings.Contains(found.Error(), c.want) {
			t.Errorf("want %s, got %.400s", c.want, found.Error())
		}
	}
}

func manyRows(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d,x\n", i)
	}
	return b.String()
}

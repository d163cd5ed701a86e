package expr

import (
	"math"
	"strings"
	"testing"

	"cellgate/rules/doc"
)

// FuzzPlace checks that no GeoJSON file makes the reader crash or exceed its bounds, and that a point is inside exactly
// if a check of every border says so.
func FuzzPlace(f *testing.F) {
	for _, text := range []string{
		`{"type":"Polygon","coordinates":[[[0,0],[3,0],[3,3],[0,3],[0,0]],[[1,1],[2,1],[2,2],[1,2],[1,1]]]}`,
		`{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"MultiPolygon","coordinates":[[[[5,5],[7,5],[7,7],[5,5]]]]}}]}`,
		`{"type":"GeometryCollection","geometries":[{"type":"Polygon","coordinates":[[[-180,-90],[180,-90],[180,90],[-180,90]]]}]}`,
		`{"type":"Feature","geometry":null}`, `{"type":"Polygon","coordinates":[[[1e400,0],["a",1],[],null]]}`, `[`,
	} {
		f.Add([]byte(text), 1.5, 0.5)
	}
	f.Fuzz(func(t *testing.T, data []byte, lat, lon float64) {
		p, line, err := ParsePlace(doc.Scalar{Value: "z"}, data)
		if err != nil {
			if p != nil || line < 1 || line > strings.Count(string(data), "\n")+1 {
				t.Fatalf("line %d: %v", line, err)
			}
			return
		}
		points, in := 0, false
		for _, g := range p.polygons {
			crossed := false
			for _, ring := range g.rings {
				points += len(ring)
				crossed = crossed != crosses(ring, lat, lon)
			}
			in = in || crossed
		}
		if len(p.polygons) == 0 || points > maxPlacePoints {
			t.Fatalf("%d polygons with %d points", len(p.polygons), points)
		}
		if onEarth := math.Abs(lat) <= 90 && math.Abs(lon) <= 180; p.Holds(lat, lon) != (in && onEarth) {
			t.Fatalf("%v, %v: %t by its boxes, %t by its borders", lat, lon, p.Holds(lat, lon), in)
		}
	})
}

// FuzzTable checks that no CSV file makes the reader crash, and that each row is found by its key, with values of the
// column's kind.
func FuzzTable(f *testing.F) {
	for _, text := range []string{
		"vin,tank,on\nA,5,true\nB,5.50,\nC,99999999999999999999,false\n", "\ufeffvin;tank\n", "vin\n\"a\nb\"\n", "vin,vin\n", "vin,\n1,2\n", "vin,x\nA,1\nA,2\n", "\"", "",
	} {
		f.Add(text, "vin", "A")
	}
	f.Fuzz(func(t *testing.T, text, key, row string) {
		table, line, err := ParseTable(doc.Scalar{Value: "m"}, key, []byte(text))
		if err != nil {
			if table != nil || line < 1 || line > strings.Count(text, "\n")+strings.Count(text, "\r")+1 {
				t.Fatalf("line %d: %v", line, err)
			}
			return
		}
		for name, c := range table.columns {
			if len(c.values) != len(table.rows) {
				t.Fatalf("column %q has %d values of %d rows", name, len(c.values), len(table.rows))
			}
			for _, v := range c.values {
				if !ofKind(v, c.kind) {
					t.Fatalf("column %q is %v and holds %#v", name, c.kind, v)
				}
			}
			at, there := table.rows[row]
			if got := table.lookup(c)(row); there && got != c.values[at] || !there && got != nil {
				t.Fatalf("%q: %#v", row, got)
			}
		}
	})
}

// ofKind reports whether a cell is empty or of its column's kind.
func ofKind(v any, kind FieldType) bool {
	switch v.(type) {
	case nil:
		return true
	case int:
		return kind == IntegerField || kind == NumberField
	case float64:
		return kind == NumberField
	case bool:
		return kind == BoolField
	case string:
		return kind == TextField
	}
	return false
}

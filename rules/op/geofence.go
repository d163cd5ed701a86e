package op

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// Bounds of a geofence.
const (
	maxZones     = 64
	maxZonePts   = 1000
	earthRadiusM = 6_371_008.8 // mean radius, IUGG
)

// geofenceExample shows all that must be there.
const geofenceExample = "for example lat: payload.lat, lon: payload.lon, zones: {depot: {lat: 31.2, lon: 121.4, radius: 500}}"

var geofence = Operator{
	Name: "geofence", Place: 5,
	Keys: []Key{
		{Name: "lat", Value: expressionValue, Need: geofenceExample},
		{Name: "lon", Value: expressionValue, Need: geofenceExample},
		{Name: "zones", Value: zonesValue(), Need: geofenceExample},
		{Name: "on", Value: oneOfValue("a kind of crossing", doc.CodeBadGeofence, "write enter, exit or both", "enter", "exit", "both"), Default: "both"},
	},
	Gives:   []string{"entered", "left"},
	Example: "geofence: {lat: payload.lat, lon: payload.lon, on: enter, zones: {depot: {lat: 31.2, lon: 121.4, radius: 500}}}",
	Does:    "crossing the border of a zone: `on: enter`, `exit` or `both`; a zone is a circle in metres or `{polygon: [[lat, lon], …]}`",
	New: func(a *Args) Runner {
		zones, _ := a.Values["zones"].(zoneList)
		return &geofenceOp{lat: a.expression("lat"), lon: a.expression("lon"), zones: zones, on: a.Text("on")}
	},
}

// zoneList is the value of the key zones.
type zoneList []zone

// Shown is the text in a diff.
func (l zoneList) Shown() string {
	names := make([]string, len(l))
	for i := range l {
		names[i] = l[i].name
	}
	return strings.Join(names, ", ")
}

func zonesValue() Value {
	schema := JSON{"type": "object", "additionalProperties": Ref("zone"), "minProperties": 1, "maxProperties": maxZones}
	return Value{schema: schema, read: readZones}
}

func readZones(o *doc.Object, key string) (any, bool) {
	entries, ok := o.Doc.Entries(o.Values[key], strconv.Quote(key))
	if !ok {
		return nil, false
	}
	if len(entries) == 0 || len(entries) > maxZones {
		o.Doc.FailAt(o.Values[key], doc.CodeBadGeofence, "", "a geofence has from 1 to %d zones", maxZones)
		return nil, false
	}
	var zones zoneList
	for _, e := range entries {
		z, zok := readZone(o.Doc, e)
		zones, ok = append(zones, z), ok && zok
	}
	return zones, ok
}

// zone is a circle or a polygon on the Earth, in degrees (WGS 84).
type zone struct {
	name     string
	lat, lon float64 // centre of a circle
	radius   float64 // metres; 0 for a polygon
	points   [][2]float64
}

func readZone(d *doc.Document, e doc.Entry) (zone, bool) {
	z := zone{name: e.Key.Value}
	o, ok := d.Object(e.Value, "a zone", "lat", "lon", "radius", "polygon")
	if !ok {
		return z, false
	}
	if n, ok := o.Values["polygon"]; ok {
		return z.readPolygon(d, n)
	}
	for _, f := range []struct {
		key string
		to  *float64
		max float64
	}{{"lat", &z.lat, 90}, {"lon", &z.lon, 180}, {"radius", &z.radius, 1_000_000}} {
		if !o.Has(f.key) {
			o.Missing(f.key, "a circle is {lat: 31.2, lon: 121.4, radius: 500} (metres), else write polygon: [[lat, lon], …]")
			return z, false
		}
		s, ok := o.Text(f.key)
		if !ok || !degrees(d, s, f.max, f.to) {
			return z, false
		}
	}
	if z.radius <= 0 {
		d.FailAt(o.Values["radius"], doc.CodeBadGeofence, "metres, from above 0 to 1,000,000", "a radius must be above 0")
		return z, false
	}
	return z, true
}

// degrees reads a number from -bound to bound.
func degrees(d *doc.Document, s doc.Scalar, bound float64, to *float64) bool {
	v, err := strconv.ParseFloat(s.Value, 64)
	if err != nil || math.Abs(v) > bound || math.IsNaN(v) {
		d.Fail(s.Line, s.Col, doc.CodeBadNumber, "", "must be a number from %g to %g", -bound, bound)
		return false
	}
	*to = v
	return true
}

func (z zone) readPolygon(d *doc.Document, n ast.Node) (zone, bool) {
	points, ok := d.List(n, `"polygon"`)
	if !ok {
		return z, false
	}
	if len(points) < 3 || len(points) > maxZonePts {
		d.FailAt(n, doc.CodeBadGeofence, "", "a polygon has from 3 to %d points", maxZonePts)
		return z, false
	}
	for _, p := range points {
		pair, ok := d.List(p, "a point")
		if !ok || len(pair) != 2 {
			d.FailAt(p, doc.CodeBadGeofence, "write [latitude, longitude]", "a point is two numbers")
			return z, false
		}
		var pt [2]float64
		for i, bound := range []float64{90, 180} {
			s, ok := d.Scalar(pair[i], "a coordinate")
			if !ok || !degrees(d, s, bound, &pt[i]) {
				return z, false
			}
		}
		z.points = append(z.points, pt)
	}
	return z, true
}

// ZoneSchema is the schema of one zone.
func ZoneSchema() JSON {
	number := func(bound float64) JSON { return JSON{"type": "number", "minimum": -bound, "maximum": bound} }
	point := JSON{"type": "array", "items": JSON{"type": "number"}, "minItems": 2, "maxItems": 2}
	return OneOf(
		Shape(JSON{"lat": number(90), "lon": number(180), "radius": number(1_000_000)}, "lat", "lon", "radius"),
		Shape(JSON{"polygon": JSON{"type": "array", "items": point, "minItems": 3, "maxItems": maxZonePts}}, "polygon"),
	)
}

// geofenceOp lets a message pass when the vehicle has crossed the border of a zone. A message without a
// position is no crossing, and neither is the first position outside of all zones. Memory: num = a bit per
// zone that holds the vehicle.
type geofenceOp struct {
	lat, lon *expr.Expression
	zones    []zone
	on       string
}

// Definition implements Runner.
func (o *geofenceOp) Definition() string {
	return fmt.Sprint(o.lat.Digest(), o.lon.Digest(), o.on, o.zones)
}

// Run implements Runner.
func (o *geofenceOp) Run(in *Input, out *Outputs) error {
	lat, ok, err := in.Number(o.lat)
	if err != nil || !ok {
		return err
	}
	lon, ok, err := in.Number(o.lon)
	if err != nil || !ok || math.Abs(lat) > 90 || math.Abs(lon) > 180 {
		return err
	}
	var before, inside uint64
	if m := in.Memory.Peek(); m != nil {
		before = m.Num
	}
	for i := range o.zones {
		if o.zones[i].contains(lat, lon) {
			inside |= 1 << i
		}
	}
	if inside == before {
		return nil
	}
	in.Memory.Touch().Num = inside
	entered, left := inside&^before, before&^inside
	if (o.on == "enter" && entered == 0) || (o.on == "exit" && left == 0) {
		return nil
	}
	out.Give("entered", o.named(entered))
	out.Give("left", o.named(left))
	out.Pass()
	return nil
}

func (o *geofenceOp) named(bits uint64) []any {
	list := []any{}
	for i := range o.zones {
		if bits&(1<<i) != 0 {
			list = append(list, o.zones[i].name)
		}
	}
	return list
}

// Why implements Runner.
func (o *geofenceOp) Why(in *Input) string {
	return fmt.Sprintf("no border was crossed in the direction asked (inside before: %s), or there is no position", expr.AppendJSON(nil, o.named(in.before().Num)))
}

// contains reports whether a point lies in the zone: within the radius by great circle, or inside the
// polygon by the even-odd rule on plain degrees, which does not hold across the 180th meridian.
func (z *zone) contains(lat, lon float64) bool {
	if z.points == nil {
		return distance(z.lat, z.lon, lat, lon) <= z.radius
	}
	in := false
	for i, j := 0, len(z.points)-1; i < len(z.points); j, i = i, i+1 {
		a, b := z.points[i], z.points[j]
		if (a[0] > lat) != (b[0] > lat) && lon < (b[1]-a[1])*(lat-a[0])/(b[0]-a[0])+a[1] {
			in = !in
		}
	}
	return in
}

// distance is the great-circle distance in metres (haversine).
func distance(lat1, lon1, lat2, lon2 float64) float64 {
	const rad = math.Pi / 180
	sin2 := func(x float64) float64 { s := math.Sin(x / 2); return s * s }
	h := sin2((lat2-lat1)*rad) + math.Cos(lat1*rad)*math.Cos(lat2*rad)*sin2((lon2-lon1)*rad)
	return 2 * earthRadiusM * math.Asin(math.Sqrt(min(1, h)))
}

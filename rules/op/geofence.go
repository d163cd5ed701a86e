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

const maxZones = 64

// geofenceExample shows all required keys.
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
	Does:    "a message that crosses the border of a zone: `on: enter`, `exit` or `both`; a zone is a circle in metres, `{polygon: [[lat, lon], …]}`, or the name of one of `zones` at the top of the file; the values are lists of names",
	New: func(a *Args) Runner {
		o := &geofenceOp{lat: a.expression("lat"), lon: a.expression("lon"), on: a.Text("on"), places: map[int]*expr.Place{}}
		zones, _ := a.Values["zones"].(zoneList)
		for i, z := range zones {
			o.zones = append(o.zones, z.Zone)
			if z.ref != nil {
				o.places[i] = a.env.Place(a.d, z.ref)
			}
		}
		return o
	},
}

type zoneList []fencedZone

// fencedZone is one zone: defined inline, or at the top of the file under the name ref.
type fencedZone struct {
	expr.Zone
	ref *doc.Scalar
}

// Shown returns the text for a diff.
func (l zoneList) Shown() string {
	names := make([]string, len(l))
	for i := range l {
		names[i] = l[i].Name
	}
	return strings.Join(names, ", ")
}

func zonesValue() Value {
	schema := JSON{"type": "object", "additionalProperties": OneOf(Ref("zone"), TextOf("a zone at the top of the file")), "minProperties": 1, "maxProperties": maxZones}
	return Value{schema: schema, read: readZones}
}

func readZones(o *doc.Object, key string) (any, bool) {
	if name, named := o.Values[key].(*ast.StringNode); named {
		o.Doc.FailAt(name, doc.CodeWrongType, fmt.Sprintf("write zones: {%s: %s}: its name in operator.entered, and the zone", name.Value, name.Value),
			"%q must be a mapping (key: value), this is text", key)
		return nil, false
	}
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
		if _, named := e.Value.(*ast.StringNode); named {
			s, sok := o.Doc.Scalar(e.Value, "a zone")
			zones, ok = append(zones, fencedZone{expr.Zone{Name: e.Key.Value}, &s}), ok && sok
			continue
		}
		z, zok := expr.ReadZone(o.Doc, e)
		zones, ok = append(zones, fencedZone{Zone: z}), ok && zok
	}
	return zones, ok
}

// ZoneSchema returns the schema of one zone.
func ZoneSchema() JSON {
	number := func(bound float64) JSON { return JSON{"type": "number", "minimum": -bound, "maximum": bound} }
	point := JSON{"type": "array", "items": JSON{"type": "number"}, "minItems": 2, "maxItems": 2}
	return OneOf(
		Shape(JSON{"lat": number(90), "lon": number(180), "radius": number(1_000_000)}, "lat", "lon", "radius"),
		Shape(JSON{"polygon": JSON{"type": "array", "items": point, "minItems": 3, "maxItems": expr.MaxZonePoints}}, "polygon"),
	)
}

// geofenceOp passes a message when the vehicle has crossed the border of a zone. A message without a position is not a
// crossing, nor is a first position outside all zones. Memory: num = one bit per zone, set if the vehicle is inside.
type geofenceOp struct {
	lat, lon *expr.Expression
	zones    []expr.Zone
	places   map[int]*expr.Place // zones defined at the top of the file, by index
	on       string
}

// Definition implements Runner.
func (o *geofenceOp) Definition() string {
	text := fmt.Sprint(o.lat.Digest(), o.lon.Digest(), o.on, o.zones)
	for i := range o.zones {
		if p := o.places[i]; p != nil {
			text += fmt.Sprint(" ", p.Digest())
		}
	}
	return text
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
		if p := o.places[i]; p != nil && p.Holds(lat, lon) || p == nil && o.zones[i].Contains(lat, lon) {
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
			list = append(list, o.zones[i].Name)
		}
	}
	return list
}

// Why implements Runner.
func (o *geofenceOp) Why(in *Input) string {
	return fmt.Sprintf("no border was crossed in the direction asked (inside before: %s), or there is no position", expr.AppendJSON(nil, o.named(in.before().Num)))
}

package expr

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/valyala/fastjson"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
)

// Place is a named top-level zone: a circle, or polygons from the rule file or a GeoJSON file.
type Place struct {
	Name     doc.Scalar
	zone     Zone // inline
	polygons []polygon
	box      box
	digest   uint64
}

// polygon is an outer ring with holes, and its bounding box.
type polygon struct {
	rings [][][2]float64 // latitude, longitude
	box   box
}

// maxPlacePoints bounds the points of one GeoJSON file: each message inside a polygon's box is checked against all its
// points.
const maxPlacePoints = 20_000

// ReadPlace reads an inline zone. It reports errors and returns nil for them.
func ReadPlace(d *doc.Document, e doc.Entry) *Place {
	z, ok := ReadZone(d, e)
	if !ok {
		return nil
	}
	return &Place{Name: e.Key, zone: z, box: z.box(), digest: message.Hash(fmt.Sprint(z))}
}

// contains reports whether a point is in the place.
func (p *Place) contains(a, b any) bool {
	if a == nil || b == nil {
		return false
	}
	lat, okLat := float(a)
	lon, okLon := float(b)
	if !okLat || !okLon {
		fail("inside needs a latitude and a longitude, these are %s and %s", typeOf(a), typeOf(b))
	}
	return p.Holds(lat, lon)
}

// Holds reports whether a point is in the place.
func (p *Place) Holds(lat, lon float64) bool {
	switch {
	case !p.box.holds(lat, lon):
		return false
	case p.polygons == nil:
		return p.zone.Contains(lat, lon)
	}
	return slices.ContainsFunc(p.polygons, func(g polygon) bool { return g.contains(lat, lon) })
}

func (g *polygon) contains(lat, lon float64) bool {
	if !g.box.holds(lat, lon) {
		return false
	}
	in := false
	for _, ring := range g.rings {
		in = in != crosses(ring, lat, lon)
	}
	return in
}

// ParsePlace reads a GeoJSON file (RFC 7946): Polygon, MultiPolygon, and features and collections of these. line is the
// line of a JSON syntax error, otherwise 1.
func ParsePlace(name doc.Scalar, data []byte) (p *Place, line int, err error) {
	v, err := fastjson.ParseBytes(data)
	if err != nil || !json.Valid(data) {
		var syntax *json.SyntaxError
		if errors.As(json.Unmarshal(data, new(any)), &syntax) {
			line = lineAt(data, syntax.Offset)
		}
		return nil, max(line, 1), errors.New("this is not JSON")
	}
	p = &Place{Name: name, box: emptyBox(), digest: message.Hash(data)}
	points := 0
	if err := p.add(v, &points, 0); err != nil {
		return nil, 1, err
	}
	if len(p.polygons) == 0 {
		return nil, 1, errors.New("the file has no Polygon and no MultiPolygon")
	}
	return p, 0, nil
}

func lineAt(data []byte, offset int64) int {
	line := 1
	for _, c := range data[:min(int(offset), len(data))] {
		if c == '\n' {
			line++
		}
	}
	return line
}

// add adds the polygons of a GeoJSON object.
func (p *Place) add(v *fastjson.Value, points *int, depth int) error {
	if depth > 8 {
		return errors.New("collections of collections, more than 8 deep")
	}
	kind := string(v.GetStringBytes("type"))
	switch kind {
	case "FeatureCollection":
		return p.each(v.GetArray("features"), "feature", points, depth)
	case "GeometryCollection":
		return p.each(v.GetArray("geometries"), "geometry", points, depth)
	case "Feature":
		if g := v.Get("geometry"); g != nil && g.Type() == fastjson.TypeObject {
			return p.add(g, points, depth+1)
		}
		return nil
	case "Polygon":
		return p.rings(v.GetArray("coordinates"), points)
	case "MultiPolygon":
		for i, rings := range v.GetArray("coordinates") {
			if err := p.rings(rings.GetArray(), points); err != nil {
				return fmt.Errorf("polygon %d: %w", i+1, err)
			}
		}
		return nil
	case "Point", "MultiPoint", "LineString", "MultiLineString":
		return fmt.Errorf("a %s encloses nothing: only Polygon and MultiPolygon can be zones", kind)
	}
	return errors.New("this is not GeoJSON: an object with a type, such as FeatureCollection, is expected")
}

func (p *Place) each(list []*fastjson.Value, what string, points *int, depth int) error {
	for i, item := range list {
		if err := p.add(item, points, depth+1); err != nil {
			return fmt.Errorf("%s %d: %w", what, i+1, err)
		}
	}
	return nil
}

func (p *Place) rings(list []*fastjson.Value, points *int) error {
	if len(list) == 0 {
		return errors.New("a polygon without coordinates")
	}
	g := polygon{box: emptyBox()}
	for i, r := range list {
		positions := r.GetArray()
		if *points += len(positions); *points > maxPlacePoints {
			return fmt.Errorf("more than %d points: simplify the borders", maxPlacePoints)
		}
		if len(positions) < 4 {
			return fmt.Errorf("ring %d has fewer than 4 positions; the last is the first again", i+1)
		}
		var ring [][2]float64
		for k, at := range positions {
			lon, lat, ok := position(at)
			if !ok {
				return fmt.Errorf("ring %d, position %d is not [longitude, latitude] on the Earth", i+1, k+1)
			}
			ring = append(ring, [2]float64{lat, lon})
			g.box.add(lat, lon)
			p.box.add(lat, lon)
		}
		g.rings = append(g.rings, ring)
	}
	p.polygons = append(p.polygons, g)
	return nil
}

func position(v *fastjson.Value) (lon, lat float64, ok bool) {
	pair := v.GetArray()
	if len(pair) < 2 || pair[0].Type() != fastjson.TypeNumber || pair[1].Type() != fastjson.TypeNumber {
		return 0, 0, false
	}
	lon, lat = pair[0].GetFloat64(), pair[1].GetFloat64()
	return lon, lat, math.Abs(lon) <= 180 && math.Abs(lat) <= 90
}

// Digest identifies the contents of the zone.
func (p *Place) Digest() uint64 { return p.digest }

package expr

import (
	"math"
	"strconv"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
)

// MaxZonePoints bounds an inline polygon.
const MaxZonePoints = 1000

// earthRadiusM is the Earth's mean radius in metres (IUGG).
const earthRadiusM = 6_371_008.8

// Zone is a circle or a polygon on the Earth, in degrees (WGS 84).
type Zone struct {
	Name     string
	lat, lon float64 // centre of a circle
	radius   float64 // metres; 0 for a polygon
	points   [][2]float64
}

// ReadZone reads a zone. It reports errors and returns false for them.
func ReadZone(d *doc.Document, e doc.Entry) (Zone, bool) {
	z := Zone{Name: e.Key.Value}
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
		is  measure
	}{{"lat", &z.lat, latitude}, {"lon", &z.lon, longitude}, {"radius", &z.radius, metres}} {
		if !o.Has(f.key) {
			o.Missing(f.key, "a circle is {lat: 31.2, lon: 121.4, radius: 500} (metres), else write polygon: [[lat, lon], …]")
			return z, false
		}
		s, ok := o.Text(f.key)
		if !ok || !f.is.read(d, s, f.to) {
			return z, false
		}
	}
	return z, true
}

type measure struct {
	what     string
	low, top float64
	hint     string
}

var (
	latitude  = measure{"a latitude is a number from -90 to 90", -90, 90, "in [lat, lon] the latitude comes first, then the longitude"}
	longitude = measure{"a longitude is a number from -180 to 180", -180, 180, "in [lat, lon] the latitude comes first, then the longitude"}
	metres    = measure{"a radius is a number of metres, from above 0 to 1,000,000", math.SmallestNonzeroFloat64, 1_000_000, "a number without a unit: radius: 500"}
)

func (m measure) read(d *doc.Document, s doc.Scalar, to *float64) bool {
	v, err := strconv.ParseFloat(s.Value, 64)
	if err != nil || !(v >= m.low && v <= m.top) { // NaN is neither
		d.Fail(s.Line, s.Col, doc.CodeBadNumber, m.hint, "%s", m.what)
		return false
	}
	*to = v
	return true
}

func (z Zone) readPolygon(d *doc.Document, n ast.Node) (Zone, bool) {
	points, ok := d.List(n, `"polygon"`)
	if !ok {
		return z, false
	}
	if len(points) < 3 || len(points) > MaxZonePoints {
		d.FailAt(n, doc.CodeBadGeofence, "", "a polygon has from 3 to %d points", MaxZonePoints)
		return z, false
	}
	for _, p := range points {
		pair, ok := d.List(p, "a point")
		if !ok || len(pair) != 2 {
			d.FailAt(p, doc.CodeBadGeofence, "write [latitude, longitude]", "a point is two numbers")
			return z, false
		}
		var pt [2]float64
		for i, is := range []measure{latitude, longitude} {
			s, ok := d.Scalar(pair[i], "a coordinate")
			if !ok || !is.read(d, s, &pt[i]) {
				return z, false
			}
		}
		z.points = append(z.points, pt)
	}
	return z, true
}

// Contains reports whether a point is in the zone: within the radius by great circle, or inside the polygon by the
// even-odd rule on plain degrees. Polygons across the 180th meridian are not supported.
func (z *Zone) Contains(lat, lon float64) bool {
	if z.points == nil {
		return distance(z.lat, z.lon, lat, lon) <= z.radius
	}
	return crosses(z.points, lat, lon)
}

// crosses reports whether a ray from a point crosses a ring an odd number of times: then the point is inside.
func crosses(ring [][2]float64, lat, lon float64) bool {
	in := false
	for i, j := 0, len(ring)-1; i < len(ring); j, i = i, i+1 {
		a, b := ring[i], ring[j]
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

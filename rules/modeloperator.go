package rules

import (
	"math"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Bounds of operators.
const (
	maxKept      = 1000 // entries of an operator's list per VIN
	defaultKept  = 64   // keys that dedupe remembers per VIN
	maxZones     = 64
	maxZonePts   = 1000
	earthRadiusM = 6_371_008.8 // mean radius, IUGG
)

// operatorKind names a per-VIN operator. The names are part of the stored state's keys.
type operatorKind string

// The operators in the order in which a rule applies them, whatever the order in the file.
const (
	opGeofence  operatorKind = "geofence"
	opOnChange  operatorKind = "on_change"
	opDedupe    operatorKind = "dedupe"
	opThreshold operatorKind = "threshold"
	opCount     operatorKind = "count"
	opSample    operatorKind = "sample"
	opRateLimit operatorKind = "rate_limit"
)

// operatorDef is an operator as it is written. Which fields count depends on the kind.
type operatorDef struct {
	kind operatorKind
	node ast.Node
	// every is the sample's distance, dedupe's and count's window, rate_limit's per, threshold's for.
	every time.Duration
	// count is count's at_least, rate_limit's count, dedupe's max.
	count                     int
	enter, exit, by, lat, lon *scalar
	zones                     []zone
	on                        string
}

// readOperators reads the operators of a rule in the order in which they are applied.
func readOperators(o *object) []*operatorDef {
	readers := []struct {
		kind operatorKind
		read func(*document, ast.Node, *operatorDef) bool
	}{
		{opGeofence, readGeofence},
		{opOnChange, readOnChange},
		{opDedupe, readDedupe},
		{opThreshold, readThreshold},
		{opCount, readCount},
		{opSample, readSample},
		{opRateLimit, readRateLimit},
	}
	var ops []*operatorDef
	for _, r := range readers {
		n, ok := o.values[string(r.kind)]
		if !ok {
			continue
		}
		def := &operatorDef{kind: r.kind, node: n}
		if r.read(o.d, n, def) {
			ops = append(ops, def)
		}
	}
	return ops
}

// readSample reads `sample: 10s` or `sample: {every: 10s}`.
func readSample(d *document, n ast.Node, def *operatorDef) bool {
	if _, isMap := n.(*ast.MappingNode); !isMap {
		s, ok := d.scalar(n, `"sample"`)
		if ok {
			def.every, ok = d.duration(s)
		}
		return ok
	}
	o, ok := d.object(n, `"sample"`, "every")
	return ok && o.required("every", "for example every: 10s", &def.every)
}

// required reads a duration that must be there.
func (o *object) required(key, suggestion string, to *time.Duration) (ok bool) {
	if !o.has(key) {
		o.missing(key, suggestion)
		return false
	}
	*to, ok = o.duration(key)
	return ok
}

func readThreshold(d *document, n ast.Node, def *operatorDef) bool {
	o, ok := d.object(n, `"threshold"`, "enter", "exit", "for")
	if !ok {
		return false
	}
	if !o.has("enter") {
		o.missing("enter", "for example enter: payload.soc < 15")
		return false
	}
	def.enter, def.exit = o.expr("enter"), o.expr("exit")
	if o.has("for") {
		def.every, ok = o.duration("for")
	}
	return ok && def.enter != nil
}

func readDedupe(d *document, n ast.Node, def *operatorDef) bool {
	o, ok := d.object(n, `"dedupe"`, "by", "within", "max")
	if !ok {
		return false
	}
	def.by, def.count = o.expr("by"), defaultKept
	if o.has("max") {
		def.count, ok = o.integer("max", 1, maxKept)
	}
	return o.required("within", "for example within: 1m", &def.every) && ok
}

// readOnChange reads `on_change: payload.gear` or `on_change: {of: payload.gear}`.
func readOnChange(d *document, n ast.Node, def *operatorDef) bool {
	if _, isMap := n.(*ast.MappingNode); !isMap {
		s, ok := d.expression(n, `"on_change"`)
		def.by = &s
		return ok
	}
	o, ok := d.object(n, `"on_change"`, "of")
	if !ok {
		return false
	}
	if def.by = o.expr("of"); !o.has("of") {
		o.missing("of", "for example of: payload.gear")
	}
	return def.by != nil
}

func readRateLimit(d *document, n ast.Node, def *operatorDef) bool {
	o, ok := d.object(n, `"rate_limit"`, "count", "per")
	if !ok {
		return false
	}
	if !o.has("count") {
		o.missing("count", "for example count: 5")
		return false
	}
	def.count, ok = o.integer("count", 1, maxKept)
	return o.required("per", "for example per: 1m", &def.every) && ok
}

func readCount(d *document, n ast.Node, def *operatorDef) bool {
	o, ok := d.object(n, `"count"`, "at_least", "window")
	if !ok {
		return false
	}
	if !o.has("at_least") {
		o.missing("at_least", "for example at_least: 3")
		return false
	}
	def.count, ok = o.integer("at_least", 1, maxKept)
	return o.required("window", "for example window: 10m", &def.every) && ok
}

// zone is a circle or a polygon on the Earth, in degrees (WGS 84).
type zone struct {
	name     string
	lat, lon float64 // centre of a circle
	radius   float64 // metres; 0 for a polygon
	points   [][2]float64
}

func readGeofence(d *document, n ast.Node, def *operatorDef) bool {
	o, ok := d.object(n, `"geofence"`, "lat", "lon", "zones", "on")
	if !ok {
		return false
	}
	def.lat, def.lon, def.on = o.expr("lat"), o.expr("lon"), "both"
	for _, key := range []string{"lat", "lon", "zones"} {
		if !o.has(key) {
			o.missing(key, "for example lat: payload.lat, lon: payload.lon, zones: {depot: {lat: 31.2, lon: 121.4, radius: 500}}")
			return false
		}
	}
	if s, ok := o.text("on"); ok {
		def.on = s.value
		if !contains([]string{"enter", "exit", "both"}, s.value) {
			d.fail(s.line, s.col, CodeBadGeofence, "write enter, exit or both", "%q is not a kind of crossing", s.value)
		}
	}
	entries, ok := d.entries(o.values["zones"], `"zones"`)
	if !ok || def.lat == nil || def.lon == nil {
		return false
	}
	if len(entries) == 0 || len(entries) > maxZones {
		d.failAt(o.values["zones"], CodeBadGeofence, "", "a geofence has from 1 to %d zones", maxZones)
		return false
	}
	for _, e := range entries {
		z, zok := readZone(d, e)
		def.zones, ok = append(def.zones, z), ok && zok
	}
	return ok
}

func readZone(d *document, e entry) (zone, bool) {
	z := zone{name: e.key.value}
	o, ok := d.object(e.value, "a zone", "lat", "lon", "radius", "polygon")
	if !ok {
		return z, false
	}
	if n, ok := o.values["polygon"]; ok {
		return z.readPolygon(d, n)
	}
	for _, f := range []struct {
		key string
		to  *float64
		max float64
	}{{"lat", &z.lat, 90}, {"lon", &z.lon, 180}, {"radius", &z.radius, 1_000_000}} {
		if !o.has(f.key) {
			o.missing(f.key, "a circle is {lat: 31.2, lon: 121.4, radius: 500} (metres), else write polygon: [[lat, lon], …]")
			return z, false
		}
		s, ok := o.text(f.key)
		if !ok || !d.number(s, f.max, f.to) {
			return z, false
		}
	}
	if z.radius <= 0 {
		d.failAt(o.values["radius"], CodeBadGeofence, "metres, from above 0 to 1,000,000", "a radius must be above 0")
		return z, false
	}
	return z, true
}

// number reads a number from -bound to bound.
func (d *document) number(s scalar, bound float64, to *float64) bool {
	v, err := strconv.ParseFloat(s.value, 64)
	if err != nil || math.Abs(v) > bound || math.IsNaN(v) {
		d.fail(s.line, s.col, CodeBadNumber, "", "must be a number from %g to %g", -bound, bound)
		return false
	}
	*to = v
	return true
}

func (z zone) readPolygon(d *document, n ast.Node) (zone, bool) {
	points, ok := d.list(n, `"polygon"`)
	if !ok {
		return z, false
	}
	if len(points) < 3 || len(points) > maxZonePts {
		d.failAt(n, CodeBadGeofence, "", "a polygon has from 3 to %d points", maxZonePts)
		return z, false
	}
	for _, p := range points {
		pair, ok := d.list(p, "a point")
		if !ok || len(pair) != 2 {
			d.failAt(p, CodeBadGeofence, "write [latitude, longitude]", "a point is two numbers")
			return z, false
		}
		var pt [2]float64
		for i, bound := range []float64{90, 180} {
			s, ok := d.scalar(pair[i], "a coordinate")
			if !ok || !d.number(s, bound, &pt[i]) {
				return z, false
			}
		}
		z.points = append(z.points, pt)
	}
	return z, true
}

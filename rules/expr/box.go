package expr

import (
	"fmt"
	"math"

	"github.com/expr-lang/expr/ast"
)

// Clauses that follow from zones and tables without evaluation. A zone is inside a box, so most messages need not be
// checked against its borders. A comparison of a column with a constant holds for a list of keys.

// box is a range of latitudes and a range of longitudes.
type box struct{ min, max [2]float64 }

func (b *box) holds(lat, lon float64) bool {
	return lat >= b.min[0] && lat <= b.max[0] && lon >= b.min[1] && lon <= b.max[1]
}

func (b *box) add(lat, lon float64) {
	b.min = [2]float64{min(b.min[0], lat), min(b.min[1], lon)}
	b.max = [2]float64{max(b.max[0], lat), max(b.max[1], lon)}
}

func emptyBox() box { return box{min: [2]float64{90, 180}, max: [2]float64{-90, -180}} }

// box returns a box around the zone. The box of a circle is slightly larger to allow for rounding.
func (z *Zone) box() box {
	if z.points != nil {
		b := emptyBox()
		for _, p := range z.points {
			b.add(p[0], p[1])
		}
		return b
	}
	const wider = 1.0001
	all := box{min: [2]float64{-90, -180}, max: [2]float64{90, 180}}
	angle := z.radius / earthRadiusM * wider
	dLat := angle * 180 / math.Pi
	b := box{min: [2]float64{max(-90, z.lat-dLat), -180}, max: [2]float64{min(90, z.lat+dLat), 180}}
	wide := math.Sin(angle) / math.Cos(z.lat*math.Pi/180)
	if angle >= math.Pi/2 || z.lat-dLat <= -90 || z.lat+dLat >= 90 || !(wide < 1) {
		b.min[1], b.max[1] = all.min[1], all.max[1]
		return b
	}
	dLon := math.Asin(wide) * 180 / math.Pi * wider
	if z.lon-dLon >= -180 && z.lon+dLon <= 180 { // otherwise it crosses the 180th meridian
		b.min[1], b.max[1] = z.lon-dLon, z.lon+dLon
	}
	return b
}

// call returns the bound function and arguments of a call; false if it is not bound to a zone or table.
func (a *analysis) call(n ast.Node) (boundFunction, []ast.Node, bool) {
	c, ok := n.(*ast.CallNode)
	if !ok {
		return boundFunction{}, nil, false
	}
	id, ok := c.Callee.(*ast.IdentifierNode)
	if !ok {
		return boundFunction{}, nil, false
	}
	f, ok := a.names.Calls[id.Value]
	return f, c.Arguments, ok
}

// inside adds the box of a zone as two clauses. They are necessary but not sufficient for the condition. While both are
// numbers or missing, inside cannot fail, so following clauses count too.
func (a *analysis) inside(n ast.Node) bool {
	f, args, ok := a.call(n)
	if !ok || f.place == nil || len(args) != 2 {
		return false
	}
	lat, okLat := a.symbol(args[0])
	lon, okLon := a.symbol(args[1])
	if !okLat || !okLon {
		return false
	}
	b := &f.place.box
	a.add(Clause{{Symbol: lat, Op: Within, Low: Bound{At: b.min[0]}, High: Bound{At: b.max[0]}}})
	a.add(Clause{{Symbol: lon, Op: Within, Low: Bound{At: b.min[1]}, High: Bound{At: b.max[1]}}})
	return true
}

// maxTableKeys bounds the keys of all conditions on tables in a set. Conditions past it are evaluated instead.
const maxTableKeys = 1_000_000

// column returns the test for a comparison of a table's column with a constant: the key is in a list.
func (a *analysis) column(n ast.Node, operator string, with ast.Node) (Test, bool) {
	f, args, ok := a.call(n)
	if !ok || f.table == nil || len(args) != 1 {
		return Test{}, false
	}
	sym, ok := a.symbol(args[0])
	if !ok {
		return Test{}, false
	}
	value, ok := a.comparison(sym, operator, with)
	if !ok {
		return Test{}, false
	}
	not := value.Not
	value.Not = false
	keys, ok := a.names.Symbols.keys(&f, &value)
	return Test{Symbol: sym, Op: OneOf, Not: not, Texts: keys}, ok
}

// keys returns the keys of the rows whose values in a column pass a test. Conditions with the same test share the
// result, except for lists: the id has not their values.
func (t *Symbols) keys(f *boundFunction, value *Test) (map[string]struct{}, bool) {
	id := fmt.Sprintf("%s %d %v %v %q %t", f.id, value.Op, value.Low, value.High, value.Text, value.Bool)
	if known, ok := t.columns[id]; ok {
		return known, len(known) > 0
	}
	keys := map[string]struct{}{}
	for key, row := range f.table.rows {
		seen, ok := seenCell(f.cells.values[row])
		if !ok || t.tableKeys+len(keys) >= maxTableKeys {
			return nil, false
		}
		if value.Holds(&seen) {
			keys[key] = struct{}{}
		}
	}
	t.tableKeys += len(keys)
	if value.Op == OneOf {
		return keys, len(keys) > 0
	}
	if t.columns == nil {
		t.columns = map[string]map[string]struct{}{}
	}
	t.columns[id] = keys
	return keys, len(keys) > 0
}

// seenCell returns a cell as tests see it; false for a number that they cannot represent exactly.
func seenCell(v any) (Seen, bool) {
	switch v := v.(type) {
	case nil:
		return Seen{Kind: Missing}, true
	case string:
		return Seen{Kind: TextKind, Text: v}, true
	case bool:
		return Seen{Kind: BoolKind, Bool: v}, true
	}
	f, ok := float(v)
	return Seen{Kind: NumberKind, Number: f}, ok && exact(f)
}

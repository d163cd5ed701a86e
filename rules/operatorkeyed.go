package rules

import (
	"fmt"
	"math"
)

// dedupeOp holds back a message whose key it has let pass within the window. The key is the value of by,
// else the payload. State: list = digests of the keys, oldest first.
type dedupeOp struct {
	base
	by     *expression
	within int64
	keep   int
}

func (o *dedupeOp) definition() string { return fmt.Sprint(o.by.digest(), o.within, o.keep) }

func (o *dedupeOp) pass(c *opContext) (bool, error) {
	hash := uint64(0)
	if o.by == nil {
		hash = hashText(c.sc.rec.Payload)
	} else {
		v, err := c.sc.run(o.by)
		if err != nil {
			return false, err
		}
		if v == nil {
			return true, nil // no key: nothing to compare
		}
		hash = c.sc.hashValue(v)
	}
	if st := o.peek(c); st != nil {
		for _, s := range st.list {
			if s.hash == hash && c.now-s.at < o.within {
				return false, nil
			}
		}
	}
	st, v := o.touch(c)
	st.list = expire(st.list, c.now-o.within)
	c.state.remember(v, st, stamp{hash: hash, at: c.now}, o.keep)
	return true, nil
}

// onChangeOp lets a message pass when the value differs from the one before; the first passes too. A
// missing value is no change. State: num = digest, at = changeSeen once there is a value, text = the value as JSON
// when it is short.
type onChangeOp struct {
	base
	of *expression
}

// changeSeen stands in place of a time that on_change does not have.
const changeSeen = 1

// maxPrevious is the longest value that on_change gives back as operator.previous, in bytes of JSON.
const maxPrevious = 256

func (o *onChangeOp) definition() string { return fmt.Sprint(o.of.digest()) }

func (o *onChangeOp) pass(c *opContext) (bool, error) {
	v, err := c.sc.run(o.of)
	if err != nil || v == nil {
		return false, err
	}
	hash := c.sc.hashValue(v)
	if st := o.peek(c); st != nil && st.at == changeSeen {
		if st.num == hash {
			return false, nil
		}
		c.give("previous", rawJSON(append([]byte(nil), st.text...)))
	}
	st, _ := o.touch(c)
	st.num, st.at = hash, changeSeen
	if st.text = appendJSON(st.text[:0], v); len(st.text) > maxPrevious {
		st.text = st.text[:0]
	}
	return true, nil
}

// hashValue is the digest of a value's JSON.
func (sc *scope) hashValue(v any) uint64 {
	sc.scratch = appendJSON(sc.scratch[:0], v)
	return hashText(sc.scratch)
}

// geofenceOp lets a message pass when the vehicle has crossed the border of a zone. A message without a
// position is no crossing, and neither is the first position outside of all zones. State: num = a bit per
// zone that holds the vehicle.
type geofenceOp struct {
	base
	lat, lon *expression
	zones    []zone
	on       string
}

func (o *geofenceOp) definition() string {
	return fmt.Sprint(o.lat.digest(), o.lon.digest(), o.on, o.zones)
}

func (o *geofenceOp) pass(c *opContext) (bool, error) {
	lat, ok, err := c.sc.number(o.lat)
	if err != nil || !ok {
		return false, err
	}
	lon, ok, err := c.sc.number(o.lon)
	if err != nil || !ok || math.Abs(lat) > 90 || math.Abs(lon) > 180 {
		return false, err
	}
	var before, inside uint64
	if st := o.peek(c); st != nil {
		before = st.num
	}
	for i := range o.zones {
		if o.zones[i].contains(lat, lon) {
			inside |= 1 << i
		}
	}
	if inside == before {
		return false, nil
	}
	st, _ := o.touch(c)
	st.num = inside
	entered, left := inside&^before, before&^inside
	if (o.on == "enter" && entered == 0) || (o.on == "exit" && left == 0) {
		return false, nil
	}
	c.give("entered", o.named(entered))
	c.give("left", o.named(left))
	return true, nil
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

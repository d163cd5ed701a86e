package fleet

import (
	"math"
	"sort"
)

// waypoint is a place on the road: degrees (WGS 84) and metres above sea level.
type waypoint struct{ lat, lon, alt float64 }

// shanghaiHuangshan follows the expressways G60 and G56 from Shanghai over Hangzhou and the Yuling pass
// to Huangshan: towns and interchanges along the road, coordinates to about 100 m and altitudes to about
// 10 m, with straight lines between them.
func shanghaiHuangshan() []waypoint {
	return []waypoint{
		{31.1117, 121.3763, 4},   // Xinzhuang interchange, Shanghai
		{31.0303, 121.2277, 4},   // Songjiang
		{30.8896, 121.0148, 4},   // Fengjing
		{30.7522, 120.7550, 5},   // Jiaxing
		{30.6302, 120.5652, 5},   // Tongxiang
		{30.3920, 120.3010, 6},   // Linping
		{30.2741, 120.1551, 10},  // Hangzhou
		{30.2440, 120.0500, 20},  // Liuxia
		{30.2340, 119.7247, 50},  // Lin'an
		{30.2080, 119.3960, 100}, // Yuqian
		{30.1690, 119.2150, 160}, // Changhua
		{30.0930, 118.9030, 400}, // Yuling pass, between Zhejiang and Anhui
		{29.8610, 118.4150, 130}, // Shexian
		{29.7147, 118.3375, 130}, // Tunxi, Huangshan
	}
}

// Route is a road that vehicles drive back and forth. It is immutable.
type Route struct {
	points []waypoint
	at     []float64 // metres from the start to each point
}

// NewRoute returns the simulator's road: Shanghai to Huangshan, about 330 km.
func NewRoute() *Route { return newRoute(shanghaiHuangshan()) }

func newRoute(points []waypoint) *Route {
	r := &Route{points: points, at: make([]float64, len(points))}
	for i := 1; i < len(points); i++ {
		r.at[i] = r.at[i-1] + distance(points[i-1], points[i])
	}
	return r
}

// length returns the length of the road in metres, one way.
func (r *Route) length() float64 { return r.at[len(r.at)-1] }

// Place is a position on the road.
type Place struct {
	Lat, Lon float64 // degrees, WGS 84
	Alt      float64 // metres above sea level
	Heading  float64 // degrees from north, 0 to below 360
	Grade    float64 // rise over run in the direction of travel
}

// At returns the place after driving so many metres from the start of the road.
func (r *Route) At(metres float64) Place {
	length := r.length()
	way := math.Mod(metres, 2*length)
	back := way > length
	if back {
		way = 2*length - way
	}
	i := sort.SearchFloat64s(r.at, way)
	i = min(max(i, 1), len(r.at)-1)
	a, b := r.points[i-1], r.points[i]
	run := r.at[i] - r.at[i-1]
	f := (way - r.at[i-1]) / run
	p := Place{
		Lat:     a.lat + (b.lat-a.lat)*f,
		Lon:     a.lon + (b.lon-a.lon)*f,
		Alt:     a.alt + (b.alt-a.alt)*f,
		Heading: bearing(a, b),
		Grade:   (b.alt - a.alt) / run,
	}
	if back {
		p.Heading = math.Mod(p.Heading+180, 360)
		p.Grade = -p.Grade
	}
	return p
}

const earthRadius = 6_371_008.8 // metres, the mean radius of IUGG

// distance is the length in metres of the great circle between a and b, by the haversine formula.
func distance(a, b waypoint) float64 {
	lat1, lat2 := radians(a.lat), radians(b.lat)
	dlat, dlon := lat2-lat1, radians(b.lon-a.lon)
	h := math.Pow(math.Sin(dlat/2), 2) + math.Cos(lat1)*math.Cos(lat2)*math.Pow(math.Sin(dlon/2), 2)
	return 2 * earthRadius * math.Asin(math.Sqrt(h))
}

func bearing(a, b waypoint) float64 {
	lat1, lat2, dlon := radians(a.lat), radians(b.lat), radians(b.lon-a.lon)
	y := math.Sin(dlon) * math.Cos(lat2)
	x := math.Cos(lat1)*math.Sin(lat2) - math.Sin(lat1)*math.Cos(lat2)*math.Cos(dlon)
	return math.Mod(math.Atan2(y, x)*180/math.Pi+360, 360)
}

func radians(deg float64) float64 { return deg * math.Pi / 180 }

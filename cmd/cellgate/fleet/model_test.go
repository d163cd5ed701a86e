package fleet

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// The published figures of the cycle: UNECE R83 gives durations and maximum speeds; dieselnet.com
// ("ECE 15 + EUDC / NEDC") the distances 0.9941 km and 6.9549 km.
func TestCycleFigures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name               string
		ops                []operation
		seconds, km, speed float64
	}{
		{"urban", urban(), 195, 0.9941, 50},
		{"extra-urban", extraUrban(), 400, 6.9549, 120},
	} {
		c := newCycle(tc.ops)
		if c.seconds() != tc.seconds {
			t.Errorf("%s: %g s, want %g", tc.name, c.seconds(), tc.seconds)
		}
		way, top := 0.0, 0.0
		for s := 0.0; s < c.seconds(); s++ {
			way += (c.Speed(s) + c.Speed(s+1)) / 2
			top = max(top, c.Speed(s)*3.6)
		}
		if math.Abs(way/1000-tc.km) > 0.025*tc.km {
			t.Errorf("%s: %.4f km, want %.4f within 2.5 %%", tc.name, way/1000, tc.km)
		}
		if math.Abs(top-tc.speed) > 1e-9 {
			t.Errorf("%s: top speed %g, want %g", tc.name, top, tc.speed)
		}
	}
	if got := nedc().seconds(); got != 1180 {
		t.Errorf("NEDC: %g s, want 1180", got)
	}
	if a, b := nedc().Speed(30.5), nedc().Speed(1180+30.5); math.Abs(a-b) > 1e-9 {
		t.Errorf("the cycle does not repeat: %g and %g", a, b)
	}
}

func TestRouteIsContinuous(t *testing.T) {
	t.Parallel()
	r := NewRoute()
	if km := r.length() / 1000; km < 300 || km > 400 {
		t.Fatalf("the road is %g km long", km)
	}
	last := r.At(0)
	for m := 100.0; m < 2.2*r.length(); m += 100 {
		p := r.At(m)
		d := distance(waypoint{last.Lat, last.Lon, 0}, waypoint{p.Lat, p.Lon, 0})
		if d > 101 { // less is possible where the vehicle turns round
			t.Fatalf("at %g m: a jump of %g m", m, d)
		}
		if math.Abs(p.Grade) > 0.06 || p.Heading < 0 || p.Heading >= 360 {
			t.Fatalf("at %g m: %+v", m, p)
		}
		last = p
	}
}

func TestModelIsConsistent(t *testing.T) {
	t.Parallel()
	m := newModel(nedc(), NewRoute(), rand.New(rand.NewPCG(1, 2)))
	m.SoC = 90
	startSoC, startUsed, startOdo := m.SoC, m.Used, m.Odometer
	way := 0.0
	for range 4 * 1180 {
		v0 := m.Speed
		m.advance(1)
		way += (v0 + m.Speed) / 2 / 3.6
		if m.SoC < 0 || m.SoC > 100 || m.Speed < 0 || m.Speed > 120.001 {
			t.Fatalf("out of range: %+v", m.State)
		}
		if got := m.Voltage * m.Current / 1000; math.Abs(got-m.Power) > 0.01*math.Abs(m.Power)+0.01 {
			t.Fatalf("voltage × current is %g kW, power is %g kW", got, m.Power)
		}
	}
	if km := m.Odometer - startOdo; math.Abs(km-way/1000) > 0.001 {
		t.Errorf("odometer moved %g km, speed says %g km", km, way/1000)
	}
	energy := m.Used - startUsed
	if soc := energy / capacity * 100; math.Abs(startSoC-m.SoC-soc) > 1e-6 {
		t.Errorf("state of charge fell %g, energy says %g", startSoC-m.SoC, soc)
	}
	// A car of this size needs 11 to 20 kWh per 100 km in the cycle.
	if per100 := energy / (way / 1000) * 100; per100 < 10 || per100 > 22 {
		t.Errorf("%g kWh per 100 km", per100)
	}
	if m.Battery < m.Ambient || m.Battery > m.Ambient+30 || m.Motor < m.Ambient || m.Motor > 130 {
		t.Errorf("temperatures: %+v", m.State)
	}
}

func TestModelClimbCostsAndBrakingGives(t *testing.T) {
	t.Parallel()
	flat, up, down := wheelPower(20, 0, 0), wheelPower(20, 0, 0.05), wheelPower(20, 0, -0.05)
	if lift := up - flat; math.Abs(lift-mass*gravity*0.05*20) > 200 {
		t.Errorf("climbing 5 %% at 20 m/s costs %g W", lift)
	}
	if down >= 0 || batteryPower(down, 50) >= 0 {
		t.Errorf("downhill: wheels %g W, battery %g W, want both below 0", down, batteryPower(down, 50))
	}
	if got := batteryPower(down, 100); got != auxiliary {
		t.Errorf("a full battery takes %g W", got)
	}
}

func TestModelChargesWhenLow(t *testing.T) {
	t.Parallel()
	m := newModel(nedc(), NewRoute(), rand.New(rand.NewPCG(3, 4)))
	m.SoC = chargeBelow + 0.05
	odo := 0.0
	for i := 0; !m.Charging; i++ {
		if i > 7200 {
			t.Fatal("never went to charge")
		}
		m.advance(1)
		odo = m.Odometer
	}
	seconds := 0
	for ; m.Charging; seconds++ {
		m.advance(1)
		if m.Speed != 0 || m.Odometer != odo {
			t.Fatal("moves while it charges")
		}
	}
	if m.SoC < chargeUntil {
		t.Errorf("left the charger at %g %%", m.SoC)
	}
	if minutes := seconds / 60; minutes < 20 || minutes > 60 {
		t.Errorf("charging took %d minutes", minutes)
	}
}

func TestTelemetryIsJSONOfTheSizeAsked(t *testing.T) {
	t.Parallel()
	m := newModel(nedc(), NewRoute(), rand.New(rand.NewPCG(5, 6)))
	for _, size := range []int{0, 256, 512, 1024, 4096} {
		b := appendTelemetry(nil, 7, seqWidth, time.UnixMilli(1_700_000_000_123), &m.State, size)
		if len(b) != size && (size > 400 || len(b) > 400) {
			t.Errorf("size %d: got %d", size, len(b))
		}
		patchSeq(b, 999_999_999_999)
		var got struct {
			Seq uint64  `json:"seq"`
			TS  int64   `json:"ts"`
			SoC float64 `json:"soc"`
		}
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if got.Seq != 999_999_999_999 || got.TS != 1_700_000_000_123 || math.Abs(got.SoC-m.SoC) > 0.005 {
			t.Errorf("got %+v from %s", got, b)
		}
	}
	if b := appendAlarm(nil, 8, time.Now(), &m.State, m0()); !json.Valid(b) {
		t.Errorf("not JSON: %s", b)
	}
}

func m0() *rand.Rand { return rand.New(rand.NewPCG(0, 0)) }

func TestVIN(t *testing.T) {
	t.Parallel()
	if got := checkDigit("1M8GDM9AXKP042788"); got != 'X' { // the example of 49 CFR 565
		t.Errorf("check digit %c, want X", got)
	}
	if got := checkDigit("1M8GDM9AXKP04278O"); got != 0 {
		t.Errorf("a VIN with an O has check digit %c", got)
	}
	seen := make(map[string]bool)
	for _, vin := range VINs(0, 2000) {
		if len(vin) != 17 || checkDigit(vin) != vin[8] || seen[vin] {
			t.Fatalf("VIN %q", vin)
		}
		seen[vin] = true
	}
}

func BenchmarkTelemetryPatched(b *testing.B) {
	m := newModel(nedc(), NewRoute(), m0())
	p := appendTelemetry(nil, 1, seqWidth, time.Now(), &m.State, 256)
	b.ReportAllocs()
	for i := range b.N {
		patchSeq(p, uint64(i)) //nolint:gosec // positive
	}
}

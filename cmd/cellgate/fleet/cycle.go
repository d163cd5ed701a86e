package fleet

// The New European Driving Cycle as the operations of UNECE Regulation No. 83, Annex 4a, Appendix 1:
// table 1 (the elementary urban cycle, driven four times) and table 2 (the extra-urban cycle). Gear
// changes are taken at constant speed, as electric vehicles have none.

// operation is one line of such a table: within seconds, the speed changes linearly to km/h.
type operation struct {
	seconds int
	to      float64 // km/h
}

// urban is the elementary urban cycle (ECE 15): 195 s.
func urban() []operation {
	return []operation{
		{11, 0}, {4, 15}, {8, 15}, {2, 10}, {3, 0}, // operations 1 to 5
		{21, 0}, {5, 15}, {2, 15}, {5, 32}, {24, 32}, {8, 10}, {3, 0}, // 6 to 12
		{21, 0}, {5, 15}, {2, 15}, {9, 35}, {2, 35}, {8, 50}, {12, 50}, // 13 to 19
		{8, 35}, {13, 35}, {2, 35}, {7, 10}, {3, 0}, {7, 0}, // 20 to 25
	}
}

// extraUrban is the extra-urban driving cycle (EUDC): 400 s.
func extraUrban() []operation {
	return []operation{
		{20, 0}, {5, 15}, {2, 15}, {9, 35}, {2, 35}, {8, 50}, {2, 50}, {13, 70}, {50, 70}, // 1 to 9
		{8, 50}, {69, 50}, {13, 70}, {50, 70}, {35, 100}, {30, 100}, {20, 120}, {10, 120}, // 10 to 17
		{16, 80}, {8, 50}, {10, 0}, {20, 0}, // 18 to 20, and the final idling
	}
}

// Cycle is a speed profile that repeats. It is immutable.
type Cycle struct {
	speed []float64 // m/s at each full second; the last equals the first
}

// nedc returns the New European Driving Cycle: 1,180 s.
func nedc() *Cycle {
	var ops []operation
	for range 4 {
		ops = append(ops, urban()...)
	}
	return newCycle(append(ops, extraUrban()...))
}

func newCycle(ops []operation) *Cycle {
	speed := []float64{0}
	at := 0.0 // km/h
	for _, op := range ops {
		step := (op.to - at) / float64(op.seconds)
		for s := 1; s <= op.seconds; s++ {
			speed = append(speed, (at+step*float64(s))/3.6)
		}
		at = op.to
	}
	return &Cycle{speed: speed}
}

// seconds is the cycle's length.
func (c *Cycle) seconds() float64 { return float64(len(c.speed) - 1) }

// Speed returns the speed in m/s at t seconds from the start; beyond its end the cycle repeats.
func (c *Cycle) Speed(t float64) float64 {
	n := c.seconds()
	t -= n * float64(int(t/n))
	i := int(t)
	if i >= len(c.speed)-1 {
		return c.speed[len(c.speed)-1]
	}
	f := t - float64(i)
	return c.speed[i]*(1-f) + c.speed[i+1]*f
}

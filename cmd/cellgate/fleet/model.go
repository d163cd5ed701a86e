package fleet

import (
	"math"
	"math/rand/v2"
)

// The car: a battery-electric saloon of the middle class. The energy at the wheels is
//
//	(mass·k·a + mass·g·(rolling·cos θ + sin θ) + ½·air·drag·v²) · v
//
// with a from the drive cycle and θ from the road; the battery gives it through the drive's efficiency
// and takes back a part of it when braking.
const (
	mass          = 1850.0 // kg, with two people
	inertia       = 1.04   // of rotating parts, as a factor on mass
	gravity       = 9.80665
	rolling       = 0.0095
	drag          = 0.23 * 2.25 // cd × m²
	air           = 1.204       // kg/m³ at 20 °C
	driveEff      = 0.90
	regenEff      = 0.68
	regenLimit    = 70e3   // W
	auxiliary     = 450.0  // W: electronics, climate
	capacity      = 60.0   // kWh usable
	chargePower   = 110e3  // W at the fast charger, up to taperFrom
	taperFrom     = 70.0   // % of charge
	chargeBelow   = 8.0    // % of charge at which the driver goes to a charger
	chargeUntil   = 85.0   // % of charge
	cellsInSeries = 96     //
	resistance    = 0.080  // Ω, the pack's
	heatCapacity  = 320e3  // J/K, the pack's
	coolingRate   = 220.0  // W/K to the surroundings
	motorHeat     = 40e3   // J/K
	motorCooling  = 90.0   // W/K
	maxStep       = 1.0    // s: longer steps are divided
	joulesPerKWh  = 3.6e6  //
	metresPerKm   = 1000.0 //
)

// State has a vehicle's sensor values at one moment.
type State struct {
	Speed    float64 // km/h
	SoC      float64 // %, 0 to 100
	Odometer float64 // km
	Power    float64 // kW out of the battery, negative when it takes charge
	Voltage  float64 // V
	Current  float64 // A, positive when discharging
	Battery  float64 // °C
	Motor    float64 // °C
	Ambient  float64 // °C
	Charging bool
	Used     float64 // kWh net out of the battery since the vehicle was made
	Place    Place
}

// model moves one vehicle through time. It is not safe for concurrent use.
type model struct {
	cycle  *Cycle
	route  *Route
	clock  float64 // s into the cycle
	metres float64 // along the route
	State
}

// newModel places a vehicle somewhere on the road and in the cycle, chosen by rnd. One in eight starts
// with little charge, so that a fleet shows the low-battery alert and charging within minutes.
func newModel(cycle *Cycle, route *Route, rnd *rand.Rand) *model {
	m := &model{
		cycle:  cycle,
		route:  route,
		clock:  rnd.Float64() * cycle.seconds(),
		metres: rnd.Float64() * 2 * route.length(),
	}
	m.Odometer = 500 + 60_000*rnd.Float64()
	m.Ambient = 12 + 14*rnd.Float64()
	m.Battery, m.Motor = m.Ambient+6, m.Ambient+15
	m.SoC = 25 + 65*rnd.Float64()
	if rnd.IntN(8) == 0 {
		m.SoC = 15.1 + 0.6*rnd.Float64()
	}
	m.advance(0)
	return m
}

// advance moves the model forward in time.
func (m *model) advance(seconds float64) {
	for seconds > maxStep {
		m.step(maxStep)
		seconds -= maxStep
	}
	m.step(seconds)
}

func (m *model) step(dt float64) {
	m.Place = m.route.At(m.metres)
	if m.Charging {
		m.charge(dt)
		return
	}
	v0, v1 := m.cycle.Speed(m.clock), m.cycle.Speed(m.clock+dt)
	way := (v0 + v1) / 2 * dt
	accel := 0.0
	if dt > 0 {
		accel = (v1 - v0) / dt
	}
	wheels := wheelPower((v0+v1)/2, accel, m.Place.Grade)
	m.clock = math.Mod(m.clock+dt, m.cycle.seconds())
	m.metres += way
	m.Odometer += way / metresPerKm
	m.Speed = v1 * 3.6
	m.electric(batteryPower(wheels, m.SoC), dt)
	m.heat(math.Abs(wheels)*(1-driveEff), dt)
	m.Charging = m.SoC <= chargeBelow && v1 == 0
}

// wheelPower returns the power at the wheels in watts, negative when the car brakes.
func wheelPower(v, accel, grade float64) float64 {
	angle := math.Atan(grade)
	if v == 0 {
		return 0
	}
	force := mass*inertia*accel + mass*gravity*(rolling*math.Cos(angle)+math.Sin(angle)) + air*drag*v*v/2
	return force * v
}

// batteryPower returns the battery's output for it, including the auxiliaries. A full battery takes no charge back.
func batteryPower(wheels, soc float64) float64 {
	if wheels >= 0 {
		return wheels/driveEff + auxiliary
	}
	if soc >= 99 {
		return auxiliary
	}
	return math.Max(wheels*regenEff, -regenLimit) + auxiliary
}

func (m *model) charge(dt float64) {
	power := chargePower
	if m.SoC > taperFrom {
		power *= math.Max(0.15, 1-(m.SoC-taperFrom)/30)
	}
	m.Speed = 0
	m.electric(-power, dt)
	m.heat(0, dt)
	m.Charging = m.SoC < chargeUntil
}

// electric draws watts from the battery for dt seconds.
func (m *model) electric(watts, dt float64) {
	kwh := watts * dt / joulesPerKWh
	m.Used += kwh
	m.SoC = math.Min(100, math.Max(0, m.SoC-kwh/capacity*100))
	open := cellsInSeries * (3.35 + 0.75*m.SoC/100) // V, a straight line for the cells' open-circuit voltage
	m.Power = watts / 1000
	// U = open − R·I and P = U·I; the smaller root is the stable one.
	m.Current = (open - math.Sqrt(math.Max(0, open*open-4*resistance*watts))) / (2 * resistance)
	m.Voltage = open - resistance*m.Current
}

// heat warms the battery by its own losses and the motor by those of the drive (watts), and cools both.
func (m *model) heat(drive, dt float64) {
	m.Battery += (m.Current*m.Current*resistance - coolingRate*(m.Battery-m.Ambient)/4) * dt / heatCapacity
	m.Motor += (drive - motorCooling*(m.Motor-m.Ambient)) * dt / motorHeat
}

package fleet

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// seqWidth is the width of a sequence number that can be patched in a telemetry payload. It is padded with blanks,
// which JSON allows.
const seqWidth = 12

const seqPrefix = `{"seq":`

// appendTelemetry appends a vehicle's telemetry as flat JSON, so that each field can become a field of a hash. The
// sequence number takes at least width bytes. A field "pad" extends the payload to size bytes; a longer payload is not
// cut.
func appendTelemetry(dst []byte, seq uint64, width int, at time.Time, s *State, size int) []byte {
	start := len(dst)
	dst = append(dst, seqPrefix...)
	dst = appendSeq(dst, seq, width)
	dst = strconv.AppendInt(append(dst, `,"ts":`...), at.UnixMilli(), 10)
	dst = number(dst, "speed", s.Speed, 1)
	dst = number(dst, "soc", s.SoC, 2)
	dst = number(dst, "odometer", s.Odometer, 3)
	dst = number(dst, "lat", s.Place.Lat, 6)
	dst = number(dst, "lon", s.Place.Lon, 6)
	dst = number(dst, "alt", s.Place.Alt, 0)
	dst = number(dst, "heading", s.Place.Heading, 0)
	dst = number(dst, "power", s.Power, 1)
	dst = number(dst, "voltage", s.Voltage, 1)
	dst = number(dst, "current", s.Current, 1)
	dst = number(dst, "battery_temp", s.Battery, 1)
	dst = number(dst, "motor_temp", s.Motor, 1)
	dst = number(dst, "ambient_temp", s.Ambient, 1)
	dst = strconv.AppendBool(append(dst, `,"charging":`...), s.Charging)
	const frame = len(`,"pad":""`) + 1
	if room := size - (len(dst) - start) - frame; room >= 0 {
		dst = append(dst, `,"pad":"`...)
		for range room {
			dst = append(dst, 'x')
		}
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

func number(dst []byte, name string, v float64, digits int) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':')
	return strconv.AppendFloat(dst, v, 'f', digits, 64)
}

func appendSeq(dst []byte, seq uint64, width int) []byte {
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], seq, 10)
	for range width - len(d) {
		dst = append(dst, ' ')
	}
	return append(dst, d...)
}

// patchSeq sets the sequence number of a payload made by appendTelemetry with seqWidth. seq is below 10^seqWidth.
func patchSeq(payload []byte, seq uint64) {
	appendSeq(payload[:len(seqPrefix)], seq, seqWidth)
}

// fault is a kind of fault that a vehicle reports.
type fault struct {
	code  string
	level int // GB/T 32960 alarm levels, 1 to 3; 3 is the most severe
	text  string
}

func faults() []fault {
	return []fault{
		{"TYRE_PRESSURE_LOW", 1, "front left 1.8 bar"},
		{"WASHER_FLUID_LOW", 1, "below minimum"},
		{"12V_BATTERY_WEAK", 2, "11.6 V"},
		{"INSULATION_LOW", 3, "insulation resistance below 100 ohm per volt"},
		{"BATTERY_TEMPERATURE_HIGH", 3, "a cell above 55 degrees"},
		{"MOTOR_TEMPERATURE_HIGH", 2, "stator above 140 degrees"},
	}
}

// appendAlarm appends an alarm of a random kind as JSON.
func appendAlarm(dst []byte, seq uint64, at time.Time, s *State, rnd *rand.Rand) []byte {
	all := faults()
	f := all[rnd.IntN(len(all))]
	dst = strconv.AppendUint(append(dst, seqPrefix...), seq, 10)
	dst = strconv.AppendInt(append(dst, `,"ts":`...), at.UnixMilli(), 10)
	dst = strconv.AppendQuote(append(dst, `,"code":`...), f.code)
	dst = strconv.AppendInt(append(dst, `,"level":`...), int64(f.level), 10)
	dst = strconv.AppendQuote(append(dst, `,"text":`...), f.text)
	dst = number(dst, "lat", s.Place.Lat, 6)
	dst = number(dst, "lon", s.Place.Lon, 6)
	return append(dst, '}')
}

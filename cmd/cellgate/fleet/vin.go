package fleet

import (
	"fmt"
	"strings"
)

// vinWeights are the weights of the 17 positions in the check digit's sum; position 9 is the digit
// itself (ISO 3779 leaves it to the region; 49 CFR 565.15 and GB 16735 define it so).
const vinWeights = "\x08\x07\x06\x05\x04\x03\x02\x0a\x00\x09\x08\x07\x06\x05\x04\x03\x02"

// vinValue returns a character's value in the sum; -1 if it is not allowed in a VIN.
func vinValue(c byte) int {
	const letters = "12345678.12345.7.923456789" // A..Z; I, O and Q are not used
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'Z' && letters[c-'A'] != '.':
		return int(letters[c-'A'] - '0')
	}
	return -1
}

// checkDigit returns the character that position 9 of vin must hold. It returns 0 when vin is not 17
// characters of the VIN alphabet.
func checkDigit(vin string) byte {
	if len(vin) != len(vinWeights) {
		return 0
	}
	sum := 0
	for i := range len(vin) {
		v := vinValue(vin[i])
		if v < 0 {
			return 0
		}
		sum += v * int(vinWeights[i])
	}
	return "0123456789X"[sum%11]
}

// MaxVehicles is how many different VINs the simulator can make.
const MaxVehicles = 1_000_000

// VIN returns the VIN of the simulated vehicle i, from 0 to MaxVehicles-1, with a valid check digit.
func VIN(i int) string {
	vin := fmt.Sprintf("LTESTEV10TA%06d", i%MaxVehicles)
	var b strings.Builder
	b.WriteString(vin[:8])
	b.WriteByte(checkDigit(vin))
	b.WriteString(vin[9:])
	return b.String()
}

// VINs returns the VINs of n vehicles beginning with vehicle first.
func VINs(first, n int) []string {
	vins := make([]string, n)
	for i := range vins {
		vins[i] = VIN(first + i)
	}
	return vins
}

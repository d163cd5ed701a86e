package auth

// VINCheck is the result of checking a vehicle identification number. It is only advice: European numbers may lack a
// valid check digit, and a test fleet may use other names, so nothing is refused because of it.
type VINCheck struct {
	// Shape is set when the number has 17 characters of A–Z and 0–9 without I, O and Q (ISO 3779).
	Shape bool
	// CheckDigit is set when position 9 holds the check digit according to 49 CFR 565.15.
	CheckDigit bool
}

// Warning describes what is unusual, or returns "".
func (c VINCheck) Warning() string {
	switch {
	case !c.Shape:
		return "not a VIN: it must be 17 characters of A-Z and 0-9 without I, O and Q"
	case !c.CheckDigit:
		return "check digit at position 9 does not match"
	}
	return ""
}

// CheckVIN checks a vehicle identification number. It does not allocate.
func CheckVIN(vin string) VINCheck {
	const weights = "\x08\x07\x06\x05\x04\x03\x02\x0a\x00\x09\x08\x07\x06\x05\x04\x03\x02"
	if len(vin) != len(weights) {
		return VINCheck{}
	}
	sum := 0
	for i := range len(vin) {
		v := vinValue(vin[i])
		if v < 0 {
			return VINCheck{}
		}
		sum += v * int(weights[i])
	}
	want := byte('0' + sum%11)
	if sum%11 == 10 {
		want = 'X'
	}
	return VINCheck{Shape: true, CheckDigit: vin[8] == want}
}

// vinValue returns a character's value by 49 CFR 565.15 table IV, or -1 if it is not allowed in a VIN.
func vinValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'Z':
		// A to I count from 1, J to R from 1, S to Z from 2; '\xff' marks I, O and Q.
		v := "\x01\x02\x03\x04\x05\x06\x07\x08\xff\x01\x02\x03\x04\x05\xff\x07\xff\x09\x02\x03\x04\x05\x06\x07\x08\x09"[c-'A']
		if v == 0xff {
			return -1
		}
		return int(v)
	}
	return -1
}

// looksLikeVIN reports whether a client identifier has the form of a VIN and so is reserved for that vehicle.
func looksLikeVIN(s string) bool { return CheckVIN(s).Shape }

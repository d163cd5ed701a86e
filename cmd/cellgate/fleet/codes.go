package fleet

import "fmt"

// codeText returns a reason code with its name (MQTT 5, 2.4).
func codeText(code byte) string {
	if name := codeName(code); name != "" {
		return fmt.Sprintf("0x%02x (%s)", code, name)
	}
	return fmt.Sprintf("0x%02x", code)
}

func codeName(code byte) string {
	switch code {
	case 0x85:
		return "client identifier not valid"
	case 0x86:
		return "bad user name or password"
	case 0x87:
		return "not authorized"
	case 0x88:
		return "server unavailable"
	case 0x89:
		return "server busy"
	case 0x8b:
		return "server shutting down"
	case 0x8d:
		return "keep alive timeout"
	case takenOver:
		return "session taken over: another client has the VIN"
	case 0x93:
		return "receive maximum exceeded"
	case 0x95:
		return "packet too large"
	case 0x96:
		return "message rate too high"
	case 0x97:
		return "quota exceeded"
	case 0x98:
		return "administrative action"
	case 0x9c:
		return "use another server"
	case 0x9d:
		return "server moved"
	case 0x9f:
		return "connection rate exceeded"
	}
	return ""
}

// takenOver is the reason code of a connection ended by a new one with the same client identifier.
const takenOver = 0x8e

// TakenOver returns how many connections were ended by another client with the same VIN.
func (r *Report) TakenOver() uint64 { return r.Reasons["refused with code "+codeText(takenOver)] }

package frame

import (
	"bytes"
	"errors"
	"unicode/utf8"
	"unsafe"

	"cellgate/broker/shared/message"
)

// Text returns b as a string without copying. The string changes with b and is valid only as long as the buffer of b;
// clone it to keep it.
func Text(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // aliasing is intended
}

// validText reports whether b is a legal MQTT string (MQTT 5, 1.5.4): well-formed UTF-8 without U+0000.
func validText(b []byte) bool {
	for i, c := range b {
		if c-1 >= 0x7F { // 0x00, or not ASCII
			return c != 0 && validRunes(b[i:])
		}
	}
	return true
}

func validRunes(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, c := range b {
		if c == 0 {
			return false
		}
	}
	return true
}

// checkTopic checks the topic name of a PUBLISH or a will (MQTT 5, 4.7). The caller handles the empty name.
func checkTopic(b []byte) error {
	for i, c := range b {
		switch {
		case c == '+' || c == '#':
			return &Violation{Reason: ReasonTopicInvalid, Why: "topic name with a wildcard"}
		case c-1 >= 0x7F:
			return checkTopicRunes(b[i:])
		}
	}
	return nil
}

func checkTopicRunes(b []byte) error {
	if !validRunes(b) {
		return malformed("topic name is not valid UTF-8")
	}
	if bytes.ContainsAny(b, "+#") {
		return &Violation{Reason: ReasonTopicInvalid, Why: "topic name with a wildcard"}
	}
	return nil
}

// checkFilter checks a topic filter (MQTT 5, 4.7.1 and 4.8.2).
func checkFilter(b []byte) error {
	switch err := message.ValidFilter(Text(b)); {
	case err == nil:
		return nil
	case errors.Is(err, message.ErrNotUTF8), errors.Is(err, message.ErrNUL):
		return malformed("topic filter is not valid UTF-8")
	case errors.Is(err, message.ErrEmpty):
		return malformed("topic filter is empty")
	case errors.Is(err, message.ErrShare):
		return &Violation{Reason: ReasonFilterInvalid, Why: "malformed shared subscription"}
	default:
		return &Violation{Reason: ReasonFilterInvalid, Why: "topic filter with a misplaced wildcard"}
	}
}

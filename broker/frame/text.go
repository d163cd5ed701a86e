package frame

import (
	"bytes"
	"errors"
	"unicode/utf8"
	"unsafe"

	"cellgate/broker/shared/message"
)

// Text returns b as a string without copying. The string lives and changes with b: it may be used only
// while the buffer that b lies in is, and must be cloned by whoever keeps it.
func Text(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // aliasing is what it is for
}

// validText holds MQTT 5, 1.5.4: well-formed UTF-8 (which has no surrogates) without the null character.
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

// checkTopic holds MQTT 5, 4.7, for the topic name of a PUBLISH or a will; the empty name is the caller's.
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

// checkFilter holds MQTT 5, 4.7.1 and 4.8.2, for a topic filter.
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

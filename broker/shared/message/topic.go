package message

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// MaxTopicBytes is the longest topic name or filter in MQTT.
const MaxTopicBytes = 65535

// Errors of ValidTopic and ValidFilter.
var (
	ErrEmpty    = errors.New("empty")
	errTooLong  = errors.New("longer than 65,535 bytes")
	ErrNotUTF8  = errors.New("not UTF-8")
	ErrNUL      = errors.New("contains the null character")
	errWildcard = errors.New("contains a wildcard")
	errHash     = errors.New("'#' must be the last level and stand alone in it")
	errPlus     = errors.New("'+' must stand alone in its level")
	ErrShare    = errors.New("a shared subscription is $share/{group}/{filter}, the group without wildcards")
)

// SplitTopic splits a topic of the form v1/{vin}/{branch}/{rest} without allocating. Any other topic gives three empty
// strings. A topic of three levels has an empty rest.
func SplitTopic(topic string) (vin, branch, rest string) {
	const prefix = "v1/"
	if !strings.HasPrefix(topic, prefix) {
		return "", "", ""
	}
	vin, branch, ok := strings.Cut(topic[len(prefix):], "/")
	if !ok || vin == "" {
		return "", "", ""
	}
	branch, rest, _ = strings.Cut(branch, "/")
	return vin, branch, rest
}

// ValidTopic checks a topic name (MQTT 5, 4.7.3; the null character by 1.5.4).
func ValidTopic(topic string) error {
	if err := validText(topic); err != nil {
		return err
	}
	if strings.ContainsAny(topic, "+#") {
		return errWildcard
	}
	return nil
}

// ValidFilter checks a topic filter, shared subscriptions included (MQTT 5, 4.7.1 and 4.8.2).
func ValidFilter(filter string) error {
	if err := validText(filter); err != nil {
		return err
	}
	group, plain, shared := SplitShare(filter)
	if shared {
		if group == "" || plain == "" || strings.ContainsAny(group, "+#") {
			return ErrShare
		}
		filter = plain
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case strings.Contains(level, "#") && (len(level) > 1 || more):
			return errHash
		case strings.Contains(level, "+") && len(level) > 1:
			return errPlus
		}
	}
	return nil
}

func validText(s string) error {
	switch {
	case s == "":
		return ErrEmpty
	case len(s) > MaxTopicBytes:
		return errTooLong
	case !utf8.ValidString(s):
		return ErrNotUTF8
	case strings.IndexByte(s, 0) >= 0:
		return ErrNUL
	}
	return nil
}

// SplitShare splits $share/{group}/{filter}. For any other filter shared is false and plain is the filter itself.
func SplitShare(filter string) (group, plain string, shared bool) {
	const prefix = "$share/"
	if !strings.HasPrefix(filter, prefix) {
		return "", filter, false
	}
	group, plain, _ = strings.Cut(filter[len(prefix):], "/")
	return group, plain, true
}

// Match reports whether a valid filter, without $share, matches a topic name. A wildcard in the first level does not
// match a topic that begins with '$' (MQTT 5, 4.7.2). It does not allocate.
func Match(filter, topic string) bool { return Covers(filter, topic) }

// Covers reports whether outer matches every topic that inner matches. Both are valid and without $share. It decides
// whether a permission allows a subscription.
func Covers(outer, inner string) bool {
	if strings.HasPrefix(inner, "$") && (strings.HasPrefix(outer, "+") || strings.HasPrefix(outer, "#")) {
		return false
	}
	if inner == "#" && outer == "+/#" { // every topic has a first level
		return true
	}
	for {
		o, orest, omore := strings.Cut(outer, "/")
		if o == "#" {
			return true
		}
		i, irest, imore := strings.Cut(inner, "/")
		if i == "#" || (o != "+" && o != i) {
			return false
		}
		if !imore {
			return !omore || orest == "#"
		}
		if !omore {
			return false
		}
		outer, inner = orest, irest
	}
}

// Overlaps reports whether a topic exists that both filters match. Both are valid and without $share.
func Overlaps(a, b string) bool {
	if ad, bd := strings.HasPrefix(a, "$"), strings.HasPrefix(b, "$"); ad != bd && startsWild(a, b, ad) {
		return false
	}
	for {
		x, xrest, xmore := strings.Cut(a, "/")
		y, yrest, ymore := strings.Cut(b, "/")
		if x == "#" || y == "#" {
			return true
		}
		if x != y && x != "+" && y != "+" {
			return false
		}
		switch {
		case !xmore && !ymore:
			return true
		case !xmore:
			return yrest == "#"
		case !ymore:
			return xrest == "#"
		}
		a, b = xrest, yrest
	}
}

// startsWild reports whether the filter that does not begin with '$' begins with a wildcard.
func startsWild(a, b string, aDollar bool) bool {
	other := a
	if aDollar {
		other = b
	}
	return strings.HasPrefix(other, "+") || strings.HasPrefix(other, "#")
}

// Levels returns the number of levels of a topic, or of a filter after $share/{group}.
func Levels(topicOrFilter string) int {
	_, plain, _ := SplitShare(topicOrFilter)
	return 1 + strings.Count(plain, "/")
}

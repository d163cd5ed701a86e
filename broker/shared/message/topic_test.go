package message

import (
	"errors"
	"strings"
	"testing"
)

func TestValidTopicAndFilter(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", MaxTopicBytes+1)
	for _, c := range []struct {
		s             string
		topic, filter error
	}{
		{"a", nil, nil},
		{"/", nil, nil},
		{"a//b", nil, nil},
		{"$SYS/x", nil, nil},
		{"é/ü", nil, nil},
		{"a b", nil, nil},
		{"", ErrEmpty, ErrEmpty},
		{long, errTooLong, errTooLong},
		{long[1:], nil, nil},
		{"a\x00b", ErrNUL, ErrNUL},
		{"a\xff", ErrNotUTF8, ErrNotUTF8},
		{"\xed\xa0\x80", ErrNotUTF8, ErrNotUTF8}, // a surrogate half: MQTT 5, 1.5.4
		{"#", errWildcard, nil},
		{"+", errWildcard, nil},
		{"a/+/b/#", errWildcard, nil},
		{"+/+", errWildcard, nil},
		{"a+", errWildcard, errPlus},
		{"a+/b", errWildcard, errPlus},
		{"+a/b", errWildcard, errPlus},
		{"++", errWildcard, errPlus},
		{"foo#", errWildcard, errHash},
		{"a/#/b", errWildcard, errHash},
		{"#/", errWildcard, errHash},
		{"##", errWildcard, errHash},
		{"+#", errWildcard, errHash},
		{"$share/g/a", nil, nil},
		{"$share/g/#", errWildcard, nil},
		{"$share/g/", nil, ErrShare},
		{"$share/g", nil, ErrShare},
		{"$share//a", nil, ErrShare},
		{"$share/", nil, ErrShare},
		{"$share/+/a", errWildcard, ErrShare},
		{"$share/g#/a", errWildcard, ErrShare},
		{"$share/g/a#", errWildcard, errHash},
		{"$share/g/a+/b", errWildcard, errPlus},
		{"$share", nil, nil},
		{"$SHARE/g/a", nil, nil},
	} {
		name := c.s[:min(len(c.s), 20)]
		if err := ValidTopic(c.s); !errors.Is(err, c.topic) {
			t.Errorf("topic %q: %v, want %v", name, err, c.topic)
		}
		if err := ValidFilter(c.s); !errors.Is(err, c.filter) {
			t.Errorf("filter %q: %v, want %v", name, err, c.filter)
		}
	}
}

func TestSplitTopic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ topic, vin, branch, rest string }{
		{"v1/VIN/up/telemetry", "VIN", "up", "telemetry"},
		{"v1/VIN/up/a/b", "VIN", "up", "a/b"},
		{"v1/VIN/token", "VIN", "token", ""},
		{"v1/VIN/", "VIN", "", ""},
		{"v1/VIN", "", "", ""},
		{"v1//up/x", "", "", ""},
		{"v1", "", "", ""},
		{"V1/VIN/up", "", "", ""},
		{"/v1/VIN/up", "", "", ""},
		{"", "", "", ""},
	} {
		if vin, branch, rest := SplitTopic(c.topic); vin != c.vin || branch != c.branch || rest != c.rest {
			t.Errorf("%q: %q %q %q", c.topic, vin, branch, rest)
		}
	}
}

func TestSplitShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter, group, plain string
		shared               bool
	}{
		{"a/b", "", "a/b", false},
		{"$share/g/a/#", "g", "a/#", true},
		{"$share/g", "g", "", true},
		{"$shared/g/a", "", "$shared/g/a", false},
	} {
		if group, plain, shared := SplitShare(c.filter); group != c.group || plain != c.plain || shared != c.shared {
			t.Errorf("%q: %q %q %v", c.filter, group, plain, shared)
		}
	}
}

func TestMatchTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true}, // MQTT 5, 4.7.1.2
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false}, // 4.7.1.3
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/x", false}, // 4.7.2
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/x", true},
		{"v1/+/#", "v1/X", true},
		{"dev/x", "dev/x/cmd", false},
		{"a/b", "a/c", false},
		{"a", "A", false},
	} {
		if got := Match(c.filter, c.topic); got != c.want {
			t.Errorf("%q, %q: %v", c.filter, c.topic, got)
		}
	}
}

// enumerate returns the strings of up to n of the given levels that ok accepts.
func enumerate(n int, levels []string, ok func(string) bool) []string {
	var out []string
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for _, l := range levels {
			s := prefix + l
			if ok(s) {
				out = append(out, s)
			}
			if depth < n {
				grow(s+"/", depth+1)
			}
		}
	}
	grow("", 1)
	return out
}

// matches specifies Match, level by level.
func matches(filter, topic []string) bool {
	if strings.HasPrefix(topic[0], "$") && (filter[0] == "+" || filter[0] == "#") {
		return false
	}
	for i, f := range filter {
		if f == "#" {
			return true
		}
		if i >= len(topic) || (f != "+" && f != topic[i]) {
			return false
		}
	}
	return len(filter) == len(topic)
}

// TestBruteForce compares Match, Covers and Overlaps with an enumeration of small topics. The topics include a name
// that no filter has, and are one level longer, so that they distinguish every pair of filters. The empty topic, which
// no client can use, is included: "/#" would match it.
func TestBruteForce(t *testing.T) {
	t.Parallel()
	filters := enumerate(3, []string{"", "a", "$", "+", "#"}, func(s string) bool { return ValidFilter(s) == nil })
	topics := enumerate(4, []string{"", "a", "$", "other"}, func(s string) bool { return s == "" || ValidTopic(s) == nil })
	sets := make([][]bool, len(filters))
	for i, f := range filters {
		sets[i] = make([]bool, len(topics))
		for k, topic := range topics {
			sets[i][k] = matches(strings.Split(f, "/"), strings.Split(topic, "/"))
			if got := Match(f, topic); got != sets[i][k] {
				t.Fatalf("Match(%q, %q) = %v", f, topic, got)
			}
		}
	}
	for i, a := range filters {
		for k, b := range filters {
			covers, overlaps := true, false
			for n := range topics {
				covers = covers && (sets[i][n] || !sets[k][n])
				overlaps = overlaps || (sets[i][n] && sets[k][n])
			}
			if got := Covers(a, b); got != covers {
				t.Errorf("Covers(%q, %q) = %v", a, b, got)
			}
			if got := Overlaps(a, b); got != overlaps {
				t.Errorf("Overlaps(%q, %q) = %v", a, b, got)
			}
		}
	}
	t.Logf("%d filters, %d topics", len(filters), len(topics))
}

func FuzzTopics(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Add("$share/g/+/b", "$SYS/b")
	f.Fuzz(func(t *testing.T, a, b string) {
		if ValidFilter(a) == nil && ValidTopic(b) == nil {
			_, plain, _ := SplitShare(a)
			want := matches(strings.Split(plain, "/"), strings.Split(b, "/"))
			if Match(plain, b) != want || Overlaps(plain, b) != want || Covers(plain, b) != want {
				t.Fatalf("%q and %q: want %v", plain, b, want)
			}
		}
	})
}

func TestTopicsDoNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if !Match("v1/+/up/#", "v1/VIN/up/telemetry") || !Covers("v1/+/up/#", "v1/VIN/up/+") || !Overlaps("v1/+/#", "v1/VIN/up") {
			t.Fatal("wrong answer")
		}
		SplitTopic("v1/VIN/up/telemetry")
	}); n > 0 {
		t.Fatalf("%v allocations", n)
	}
}

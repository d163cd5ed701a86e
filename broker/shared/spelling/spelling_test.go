package spelling

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"cell", "listeners", "kafka", "max_connections", "min_version", "id"}
	for word, want := range map[string]string{
		"cel": "cell", "Cell": "cell", "kafak": "kafka", "listener": "listeners", "max_conections": "max_connections",
		"maxconnections": "max_connections", "min-version": "min_version", "foo": "", "": "", "x": "", "ix": "id",
		"something": "", strings.Repeat("k", 1000): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := Nearest("cell", nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestEditDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"a", "", 1},
		{"", "abc", 3},
		{"abc", "abc", 0},
		{"abc", "abd", 1},
		{"abc", "ac", 1},
		{"ab", "ba", 1},
		{"kitten", "sitting", 3},
		{"abcd", "badc", 2},
		{strings.Repeat("a", 65), "a", 66},
		{strings.Repeat("a", 64), strings.Repeat("b", 64), 64},
	} {
		for _, d := range []int{editDistance(c.a, c.b), editDistance(c.b, c.a)} {
			if d != c.want {
				t.Errorf("%q, %q: %d, want %d", c.a, c.b, d, c.want)
			}
		}
	}
}

func TestForeign(t *testing.T) {
	t.Parallel()
	keys := []string{"rules", "lists"}
	for text, want := range map[string]bool{
		"rules:\n- a\n": false, "rule:\n": false, "# comment\n'lists': []\n": false, "&a rules: 1\n": false, "{}": false, " {}\n": false,
		`{"rules": []}`: false, `{a: 1, lists: []}`: false, `{"rule": []}`: true, "a: {rules: 1}\n": true, "x: 1\n": true, "": true,
		"  rules: 1\n": true, "rules\n": true, "PASSWORD=rules:\n": true,
	} {
		if got := Foreign([]byte(text), keys); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

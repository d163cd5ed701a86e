// Package spelling suggests the intended spelling of an unknown name, finds faults in the layout of YAML, and
// recognises files of another kind.
package spelling

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

var (
	// keyOfLine matches a key at the beginning of a line, keyOfFlow one inside braces.
	keyOfLine = regexp.MustCompile(`(?m)^(?:&\w+[ \t]+)?["']?([A-Za-z_]+)["']?[ \t]*:(?:\s|$)`)
	keyOfFlow = regexp.MustCompile(`[{,]\s*["']?([A-Za-z_]+)["']?\s*:`)
)

// Foreign reports whether text is not YAML with one of the keys, or a misspelling of one, at its top. The user then
// named another file, which may contain secrets: nothing of its content may be shown. An empty mapping is not foreign.
func Foreign(text []byte, keys []string) bool {
	pattern, near := keyOfLine, true
	switch trimmed := bytes.TrimSpace(text); {
	case bytes.Equal(trimmed, []byte("{}")):
		return false
	case bytes.HasPrefix(trimmed, []byte("{")):
		pattern, near = keyOfFlow, false
	}
	for _, m := range pattern.FindAllSubmatch(text, -1) {
		if key := string(m[1]); slices.Contains(keys, key) || near && Nearest(key, keys) != "" {
			return false
		}
	}
	return true
}

// Nearest returns the candidate with the smallest edit distance to word, "" if none is close enough: one edit per three
// letters, or two, but never more than one per two letters. It ignores case.
func Nearest(word string, candidates []string) string {
	best, found := min(len(word)/2, max(2, len(word)/3))+1, ""
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(word), strings.ToLower(c)); d < best {
			best, found = d, c
		}
	}
	return found
}

// editDistance counts insertions, deletions and replacements; a swap of neighbours counts as one. Names longer than 64
// bytes have nothing in common, which bounds the work.
func editDistance(a, b string) int {
	const limit = 64
	if len(a) > limit || len(b) > limit {
		return len(a) + len(b)
	}
	var rows [3][limit + 1]int
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur, prev, before := &rows[i%3], &rows[(i+2)%3], &rows[(i+1)%3]
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}

package statefile

import (
	"os"
)

// Counts tells how many values the buckets of a file held when it was whole, by bucket, as far as a damaged file still
// says so.
func Counts(file string) map[string]uint64 {
	f, err := os.Open(file) //nolint:gosec // the configured folder
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	m, _, err := readMeta(f)
	if err != nil {
		return nil
	}
	s := &scan{r: f, pages: m.pages, seen: make([]uint64, m.pages/64+1), kept: map[string]digest{}}
	w := &walk{s: s}
	w.leaf = func(_ uint32, key, value []byte) error {
		if string(key) != reservedName {
			return nil
		}
		return s.checksums(value)
	}
	_, _ = w.tree(m.root) // what was read before an error is right: it has checksums of its own
	counts := make(map[string]uint64, len(s.kept))
	for path, d := range s.kept {
		counts[showPath(path)] = d.keys
	}
	return counts
}

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
	kept := map[string]digest{}
	if mapped(f, func(data []byte) { kept = keptDigests(data) }) != nil {
		return nil
	}
	counts := make(map[string]uint64, len(kept))
	for path, d := range kept {
		counts[showPath(path)] = d.keys
	}
	return counts
}

// keptDigests reads what a file says about its buckets, as far as it can be read.
func keptDigests(data []byte) map[string]digest {
	m, _, err := readMeta(data)
	if err != nil {
		return nil
	}
	s := newScan(data, m)
	w := &walk{s: s}
	w.leaf = func(_ uint32, key, value []byte) error {
		if string(key) != reservedName {
			return nil
		}
		return s.checksums(value)
	}
	_, _ = w.tree(m.root) // what was read before an error is right: it has checksums of its own
	return s.kept
}

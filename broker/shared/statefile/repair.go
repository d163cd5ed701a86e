package statefile

import (
	"os"
)

// Counts returns the number of values by bucket, as far as a damaged file still records it.
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

// keptDigests reads the stored digests of a file, as far as they are readable.
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
	_, _ = w.tree(m.root) // what was read before an error is sound: it has its own checksums
	return s.kept
}

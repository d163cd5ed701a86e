package message

// Hash is FNV-1a, 64 bits: stable over processes and versions, which canary shares, shards
// and stored keys rely on.
func Hash[T ~string | ~[]byte](s T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

package message

// Hash returns the 64-bit FNV-1a hash. It is stable over processes and versions: canary shares, shards and stored keys
// rely on that.
func Hash[T ~string | ~[]byte](s T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

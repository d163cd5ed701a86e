package kafkaclient

import "encoding/binary"

// Partition chooses the partition of a key among n the way that Kafka's own Java producer does, so that
// Java consumers and producers agree with the gateway about where a VIN lives
// (org.apache.kafka.clients.producer.internals.BuiltInPartitioner). n is at least 1.
func Partition(key []byte, n int) int {
	return int(murmur2(key)&0x7fffffff) % n
}

// murmur2 is Austin Appleby's 32-bit MurmurHash2 with the seed that Kafka uses
// (org.apache.kafka.common.utils.Utils.murmur2).
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(data)) //nolint:gosec // keys are far below 4 GiB
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data)
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}

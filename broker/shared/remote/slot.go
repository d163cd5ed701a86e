package remote

import "strings"

// RedisSlots is the number of slots of a Redis cluster.
const RedisSlots = 16384

// RedisSlot returns a key's slot in a Redis cluster: CRC16 (XMODEM) of its hash tag, or of the whole key.
func RedisSlot(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % RedisSlots
}

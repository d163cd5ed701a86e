package cell

import (
	"strconv"
	"strings"
)

// slots is how many a Redis cluster has.
const slots = 16384

// slotOf is a key's slot in a Redis cluster: CRC16 (XMODEM) of its hash tag, or of all of it.
func slotOf(key string) int {
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
	return int(crc) % slots
}

// tagsBySlot finds a short hash tag for every slot.
func tagsBySlot() []string {
	tags := make([]string, slots)
	for n, missing := 0, slots; missing > 0; n++ {
		tag := strconv.Itoa(n)
		if s := slotOf(tag); tags[s] == "" {
			tags[s] = tag
			missing--
		}
	}
	return tags
}

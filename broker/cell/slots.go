package cell

import (
	"strconv"

	"cellgate/broker/shared/remote"
)

// tagsBySlot finds a short hash tag for each slot of a Redis cluster.
func tagsBySlot() []string {
	tags := make([]string, remote.RedisSlots)
	for n, missing := 0, len(tags); missing > 0; n++ {
		tag := strconv.Itoa(n)
		if s := remote.RedisSlot(tag); tags[s] == "" {
			tags[s] = tag
			missing--
		}
	}
	return tags
}

package broker

import "time"

// quota is a token bucket of one second's burst per dimension, as the generic cell rate algorithm keeps it:
// a theoretical arrival time each, and nothing to refill.
type quota struct {
	messages, bytes int64 // ns, of Broker.elapsed
}

// take charges what was read and tells how long the connection is not to be read. A rate of 0 is no limit.
func (q *quota) take(now int64, messages int, bytes int64, perMessage, perByte float64) time.Duration {
	wait := charge(&q.messages, now, float64(messages)*perMessage)
	return max(wait, charge(&q.bytes, now, float64(bytes)*perByte))
}

func charge(arrival *int64, now int64, cost float64) time.Duration {
	if cost == 0 {
		return 0
	}
	*arrival = max(*arrival, now) + int64(cost)
	return max(0, time.Duration(*arrival-now)-time.Second)
}

// nanosPer is the cost of one unit at a rate per second.
func nanosPer(rate int64) float64 {
	if rate <= 0 {
		return 0
	}
	return float64(time.Second) / float64(rate)
}

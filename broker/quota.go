package broker

import "time"

// quota is a token bucket with a burst of one second for messages and for bytes. It follows the generic cell rate
// algorithm: a theoretical arrival time for each, without refills.
type quota struct {
	messages, bytes int64 // ns, as Broker.elapsed
}

// take charges a read and returns how long the connection must not be read. A rate of 0 is no limit.
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

// nanosPer returns the cost of one unit in ns, at a rate per second.
func nanosPer(rate int64) float64 {
	if rate <= 0 {
		return 0
	}
	return float64(time.Second) / float64(rate)
}

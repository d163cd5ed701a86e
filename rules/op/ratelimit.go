package op

import (
	"fmt"

	"cellgate/rules/state"
)

var rateLimit = Operator{
	Name: "rate_limit", Place: 6,
	Keys: []Key{
		{Name: "count", Value: integerValue(1, maxKept), Need: "for example count: 5"},
		{Name: "per", Value: durationValue, Need: "for example per: 1m"},
	},
	Example: "rate_limit: {count: 5, per: 1m}",
	Does:    "at most five in any minute",
	New:     func(a *Args) Runner { return &rateLimitOp{count: a.integer("count"), per: a.millis("per")} },
}

// rateLimitOp passes at most count messages per VIN in any window of length per. Memory: list = when the last ones
// passed.
type rateLimitOp struct {
	count int
	per   int64
}

// Definition implements Runner.
func (o *rateLimitOp) Definition() string { return fmt.Sprint(o.count, o.per) }

// Run implements Runner.
func (o *rateLimitOp) Run(in *Input, out *Outputs) error {
	now := in.Memory.Now
	if m := in.Memory.Peek(); m != nil {
		recent := 0
		for _, s := range m.List {
			if now-s.At < o.per {
				recent++
			}
		}
		if recent >= o.count {
			return nil
		}
	}
	m := in.Memory.Touch()
	m.Expire(now - o.per)
	m.Remember(state.Stamp{At: now}, o.count)
	out.Pass()
	return nil
}

// Why implements Runner.
func (o *rateLimitOp) Why(*Input) string {
	return fmt.Sprintf("the limit of %d has passed within the last %s", o.count, ms(o.per))
}

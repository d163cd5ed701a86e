package op

import (
	"fmt"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/state"
)

// defaultKept is the default number of keys remembered per VIN.
const defaultKept = 64

var dedupe = Operator{
	Name: "dedupe", Place: 2,
	Keys: []Key{
		{Name: "by", Value: expressionValue, Shown: "of"},
		{Name: "within", Value: durationValue, Need: "for example within: 1m"},
		{Name: "max", Value: integerValue(1, maxKept), Default: defaultKept},
	},
	Example: "dedupe: {by: payload.id, within: 1m, max: 64}",
	Does: "the first of equal messages within the time, compared by `by`, else by the payload; a message without the key passes; " +
		"at most `max` keys are kept",
	New: func(a *Args) Runner {
		if a.env.Each && a.Scalar("by") == nil {
			a.d.FailAt(a.Node, doc.CodeMissing, "write by: item, or a field of it", "the elements of a list are of one message, whose payload is compared without \"by\"")
		}
		return &dedupeOp{by: a.expression("by"), within: a.millis("within"), keep: a.integer("max")}
	},
}

// dedupeOp stops a message if one with the same key has passed within the window. The key is the value of by, else
// the payload. Memory: list = hashes of the keys, oldest first.
type dedupeOp struct {
	by     *expr.Expression
	within int64
	keep   int
}

// Definition implements Runner.
func (o *dedupeOp) Definition() string { return fmt.Sprint(o.by.Digest(), o.within, o.keep) }

// Run implements Runner.
func (o *dedupeOp) Run(in *Input, out *Outputs) error {
	hash := uint64(0)
	if o.by == nil {
		hash = message.Hash(in.Record.Payload)
	} else {
		v, err := in.PassOn(o.by)
		if err != nil {
			return err
		}
		if v == nil {
			out.Pass() // no key: nothing to compare
			return nil
		}
		if hash, err = in.HashValue(v); err != nil {
			return err
		}
	}
	now := in.Memory.Now
	if m := in.Memory.Peek(); m != nil {
		for _, s := range m.List {
			if s.Hash == hash && now-s.At < o.within {
				return nil
			}
		}
	}
	m := in.Memory.Touch()
	m.Expire(now - o.within)
	m.Remember(state.Stamp{Hash: hash, At: now}, o.keep)
	out.Pass()
	return nil
}

// Why implements Runner.
func (o *dedupeOp) Why(*Input) string {
	return fmt.Sprintf("an equal message has passed within the last %s", ms(o.within))
}

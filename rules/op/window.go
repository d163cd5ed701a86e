package op

import (
	"fmt"
	"strings"
	"time"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/state"
)

// Bounds of a window.
const (
	minWindow = time.Second
	maxWindow = 24 * time.Hour
)

var windowKey = Key{Name: "window", Value: windowValue(), Need: "for example window: 5m"}

func windowValue() Value {
	read := func(o *doc.Object, key string) (any, bool) {
		d, ok := o.Duration(key)
		if ok && (d < minWindow || d > maxWindow) {
			s, _ := o.Text(key)
			o.Doc.Fail(s.Line, s.Col, doc.CodeBadDuration, "windows begin at full multiples of their length since midnight: 1m, 5m, 1h",
				"a window is from %s to 24h", minWindow)
			return nil, false
		}
		return d, ok
	}
	return Value{schema: Ref("duration"), read: read}
}

var ofNumberKey = Key{Name: "of", Value: expressionValue, Need: "for example of: payload.speed"}

var average = Operator{
	Name: "average", Place: 9, Ends: always, Keys: []Key{ofNumberKey, windowKey}, Gives: windowGives("average"),
	Example: "average: {of: payload.speed, window: 5m}",
	Does: "at the end of each window with a value: the mean of its values. Windows begin at full multiples of their length " +
		"(00:00, 00:05 …); messages without `of` do not count",
	New: newWindow("average"),
}

var minimum = Operator{
	Name: "min", Place: 10, Ends: always, Keys: []Key{ofNumberKey, windowKey}, Gives: windowGives("min"),
	Example: "min: {of: payload.speed, window: 5m}", Does: "the same: the smallest", New: newWindow("min"),
}

var maximum = Operator{
	Name: "max", Place: 11, Ends: always, Keys: []Key{ofNumberKey, windowKey}, Gives: windowGives("max"),
	Example: "max: {of: payload.speed, window: 5m}", Does: "the same: the largest", New: newWindow("max"),
}

var sum = Operator{
	Name: "sum", Place: 12, Ends: always, Keys: []Key{ofNumberKey, windowKey}, Gives: windowGives("sum"),
	Example: "sum: {of: payload.energy, window: 1h}", Does: "the same: the sum", New: newWindow("sum"),
}

var last = Operator{
	Name: "last", Place: 13, Ends: always, Keys: []Key{ofNumberKey, windowKey}, Gives: windowGives("last"),
	Example: "last: {of: payload.gear, window: 5m}", Does: "the same: the last value, of any type, of at most 256 bytes of JSON",
	New: newWindow("last"),
}

// aggregated lists the aggregate functions in the order in which their memory is stored.
var aggregated = []string{"average", "min", "max", "sum", "count", "last"}

var aggregate = Operator{
	Name: "aggregate", Place: 14, Ends: always,
	Keys: []Key{
		windowKey,
		{Name: "average", Value: expressionValue},
		{Name: "min", Value: expressionValue},
		{Name: "max", Value: expressionValue},
		{Name: "sum", Value: expressionValue},
		{Name: "count", Value: expressionValue},
		{Name: "last", Value: expressionValue},
	},
	Gives:   []string{"average", "min", "max", "sum", "count", "last", "start", "end"},
	GivesOf: givenByAggregate,
	Example: "aggregate: {window: 5m, average: payload.speed, max: payload.speed, last: payload.soc}",
	Does:    "the same for several values: any of `average`, `min`, `max`, `sum`, `count` and `last`, each of its own expression",
	New:     newAggregate,
}

// windowGives returns the names of the values that an operator with one function gives.
func windowGives(function string) []string {
	if function == "count" {
		return []string{"count", "start", "end"}
	}
	return []string{function, "count", "start", "end"}
}

func givenByAggregate(a *Args) (names []string) {
	for _, f := range aggregated {
		if a.Scalar(f) != nil {
			names = append(names, f)
		}
	}
	return append(names, "start", "end")
}

// newWindow returns a constructor for an operator with one function. It gives the number of values too.
func newWindow(function string) func(a *Args) Runner {
	return func(a *Args) Runner {
		of := a.expression("of")
		o := &windowOp{length: a.millis("window"), fields: []windowField{{function, of}}}
		if function != "count" {
			o.fields = append(o.fields, windowField{"count", of})
		}
		return o
	}
}

func newAggregate(a *Args) Runner {
	o := &windowOp{length: a.millis("window")}
	for _, f := range aggregated {
		if a.Scalar(f) != nil {
			o.fields = append(o.fields, windowField{f, a.expression(f)})
		}
	}
	if len(o.fields) == 0 {
		a.d.FailAt(a.Node, doc.CodeMissing, "for example average: payload.speed", "\"aggregate\" needs one of %s", strings.Join(aggregated, ", "))
	}
	return o
}

// windowOp passes no message and sends the aggregates at the end of a window. Memory: num = 1 while a window is
// open, at = its start, text = the aggregates of its fields in order.
type windowOp struct {
	length int64
	fields []windowField
}

type windowField struct {
	function string
	of       *expr.Expression
}

// Definition implements Runner.
func (o *windowOp) Definition() string {
	def := fmt.Sprint(o.length)
	for _, f := range o.fields {
		def += fmt.Sprint(" ", f.function, f.of.Digest())
	}
	return def
}

// Wakes implements Waker.
func (*windowOp) Wakes() {}

// Run implements Runner.
func (o *windowOp) Run(in *Input, out *Outputs) error {
	if m := in.Memory.Peek(); m != nil && m.Num != 0 && o.over(in, m) {
		if err := o.close(in, out); err != nil {
			return err
		}
	}
	if in.Scope == nil {
		return nil
	}
	values, some, err := o.values(in)
	if err != nil || !some {
		return err
	}
	m := in.Memory.Touch()
	if m.Num == 0 {
		m.Num, m.At = 1, in.Memory.Now-in.Memory.Now%o.length
		m.Text = m.Text[:0]
		m.Wake(o.due(in, m.At))
	}
	all, err := readAggregates(m.Text, o.fields)
	if err != nil {
		return err
	}
	m.Text = m.Text[:0]
	for i := range all {
		if values[i] != nil {
			all[i].add(values[i])
		}
		m.Text = all[i].append(m.Text)
	}
	return nil
}

// due returns when a window that starts at begin ends by the gateway's clock. A window by the vehicle's clock ends when
// that clock has passed its end; if no message shows this, one window length later.
func (o *windowOp) due(in *Input, begin int64) int64 {
	if !in.Memory.Event {
		return begin + o.length
	}
	return max(begin+o.length, in.Memory.Received) + o.length
}

// over reports whether the open window ends before the input.
func (o *windowOp) over(in *Input, m *state.Memory) bool {
	if in.Scope != nil && in.Memory.Now >= m.At+o.length {
		return true
	}
	if in.Memory.Event {
		return in.Scope == nil || m.Due != 0 && in.Memory.Received >= m.Due
	}
	return in.Memory.Received >= m.At+o.length
}

func (o *windowOp) close(in *Input, out *Outputs) error {
	m := in.Memory.Touch()
	all, err := readAggregates(m.Text, o.fields)
	begin, end := m.At, m.At+o.length
	m.Num, m.At, m.Text = 0, 0, nil
	if m.Wake(0); in.Memory.Event {
		m.Seen = max(m.Seen, end)
	}
	if err != nil {
		return err
	}
	for i := range all {
		if v := all[i].value(); v != nil {
			out.Give(all[i].function, v)
		}
	}
	out.Give("start", time.UnixMilli(begin).UTC())
	out.Give("end", time.UnixMilli(end).UTC())
	out.passAt(end)
	return nil
}

// values returns the values of a message by field, nil if missing.
func (o *windowOp) values(in *Input) (values []any, some bool, err error) {
	values = make([]any, len(o.fields))
	for i, f := range o.fields {
		if i > 0 && f.of == o.fields[i-1].of {
			values[i] = values[i-1]
			continue
		}
		if values[i], err = f.value(in); err != nil {
			return nil, false, err
		}
		some = some || values[i] != nil
	}
	return values, some, nil
}

// value returns a number, or JSON for functions that take any value.
func (f *windowField) value(in *Input) (any, error) {
	if f.function == "last" || f.function == "count" {
		v, err := in.PassOn(f.of)
		if err != nil || v == nil {
			return nil, err
		}
		return expr.RawJSON(expr.AppendJSON(nil, v)), nil
	}
	v, err := in.Run(f.of)
	switch v.(type) {
	case nil, int, float64:
		return v, err
	}
	_, _, err = in.Number(f.of)
	return nil, err
}

// Why implements Runner.
func (o *windowOp) Why(in *Input) string {
	if m := in.before(); m.Num != 0 {
		return fmt.Sprintf("the window that began at %s ends at %s; what is in it is sent then", clockTime(m.At), clockTime(m.At+o.length))
	}
	return fmt.Sprintf("a window of %s is open now or there is no value; it is sent at its end", ms(o.length))
}

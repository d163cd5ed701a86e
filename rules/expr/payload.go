package expr

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fastjson"

	"cellgate/broker/shared/message"
)

// ErrPayload is wrapped by the error of a rule that needs fields of a payload that is not JSON.
var ErrPayload = errors.New("the payload cannot be decoded as JSON")

// Document returns the parsed payload. It is parsed once per record, when first needed. fastjson accepts slightly more
// than RFC 8259, so strict checks its tokens.
func (sc *Scope) Document() (*fastjson.Value, error) {
	if sc.parsed == sc.gen {
		return sc.doc, sc.DocErr
	}
	sc.parsed, sc.DocErr = sc.gen, nil
	if sc.Record.Kind == message.KindTick { // there is no message: every field is missing
		sc.doc = nil
		return nil, nil //nolint:nilnil // fastjson finds no field in nil
	}
	doc, err := sc.parser.ParseBytes(sc.Record.Payload)
	if err != nil || !strict(sc.Record.Payload) {
		doc, sc.DocErr = nil, fmt.Errorf("%w (%d bytes)", ErrPayload, len(sc.Record.Payload))
	}
	sc.doc = doc
	return doc, sc.DocErr
}

// value returns the value of a name for the current record.
func (sc *Scope) value(s *Symbol) (any, error) {
	switch s.kind {
	case symVIN:
		return sc.VIN, nil
	case symCell:
		return sc.cell, nil
	case symTopic:
		return sc.Record.Topic, nil
	case symClass:
		return sc.class, nil
	case symLevels:
		return sc.levels(), nil
	case symLevel:
		return sc.level(s.level), nil
	case symQoS:
		return int(sc.Record.QoS), nil
	case symRetain:
		return sc.Record.Retain, nil
	case symReceivedAt:
		return sc.Record.Time(), nil
	case symRaw:
		return string(sc.Record.Payload), nil
	case symProperties:
		return sc.properties(), nil
	case symProperty:
		return sc.property(s.Path[0]), nil
	case symOperator:
		return sc.operValue(s.Path[0])
	case symEventAt, symLateMS:
		return sc.lateness(s)
	case symItem:
		v := fieldBelow(sc.item, s.Path)
		if v == nil {
			return nil, nil //nolint:nilnil // missing
		}
		return sc.native(v, false)
	}
	v, err := sc.field(s.index)
	if err != nil || v == nil {
		return nil, err
	}
	return sc.typed(s, v)
}

func (sc *Scope) levels() []any {
	var out []any
	for l := range strings.SplitSeq(sc.Record.Topic, "/") {
		out = append(out, l)
	}
	return out
}

func (sc *Scope) level(i int) any {
	for l := range strings.SplitSeq(sc.Record.Topic, "/") {
		if i--; i < 0 {
			return l
		}
	}
	return nil
}

func (sc *Scope) properties() map[string]any {
	out := make(map[string]any, len(sc.Record.Props.User))
	for _, p := range sc.Record.Props.User {
		if _, ok := out[p.Name]; !ok {
			out[p.Name] = p.Value
		}
	}
	return out
}

// property returns the first user property of a name; names may repeat.
func (sc *Scope) property(name string) any {
	for _, p := range sc.Record.Props.User {
		if p.Name == name {
			return p.Value
		}
	}
	return nil
}

// given returns the value of an operator, nil if it has none.
func (sc *Scope) given(name string) any {
	for _, v := range sc.Given {
		if v.Name == name {
			return v.Value
		}
	}
	return nil
}

// operValue returns the value of an operator for expressions. A value kept as JSON has the kind of the original field.
func (sc *Scope) operValue(name string) (any, error) {
	v := sc.given(name)
	raw, ok := v.(RawJSON)
	if !ok || len(raw) == 0 {
		if ok {
			v = nil
		}
		return v, nil
	}
	item, err := sc.own.ParseBytes(raw)
	if err != nil {
		return nil, err
	}
	return sc.native(item, false)
}

// typed converts a payload value and checks it against the schema.
func (sc *Scope) typed(s *Symbol, v *fastjson.Value) (any, error) {
	n, err := sc.native(v, false)
	if err != nil {
		return nil, err
	}
	if _, fraction := n.(float64); fraction && s.field == IntegerField {
		return nil, fmt.Errorf("%w: %s is not a whole number", ErrEvaluation, FieldKey("payload", s.Path))
	}
	if s.bounds != nil {
		if within, err := s.bounds.check(s, n); !within {
			return nil, err
		}
	}
	return n, nil
}

// native converts a payload value to the types of expressions. With exact, numbers that these cannot represent keep
// their digits, so that different values stay different. Otherwise overflowing numbers are an error.
func (sc *Scope) native(v *fastjson.Value, exact bool) (any, error) {
	switch v.Type() {
	case fastjson.TypeNull:
		return nil, nil //nolint:nilnil // JSON null is nil
	case fastjson.TypeTrue:
		return true, nil
	case fastjson.TypeFalse:
		return false, nil
	case fastjson.TypeNumber:
		number := sc.number
		if exact {
			number = sc.exactNumber
		}
		n, ok := number(v)
		if !ok {
			return nil, fmt.Errorf("%w: a number of the payload is out of range", ErrEvaluation)
		}
		return n, nil
	case fastjson.TypeString:
		b, err := v.StringBytes()
		return sc.boxes.text(b), err
	case fastjson.TypeArray:
		return sc.array(v, exact)
	default:
		return sc.object(v, exact)
	}
}

func (sc *Scope) array(v *fastjson.Value, exact bool) (any, error) {
	items, err := v.Array()
	if err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	for i, item := range items {
		if out[i], err = sc.native(item, exact); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (sc *Scope) object(v *fastjson.Value, exact bool) (any, error) {
	o, err := v.Object()
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, o.Len())
	o.Visit(func(key []byte, item *fastjson.Value) {
		if err == nil { // of duplicate names the last counts, as for a single field
			out[string(key)], err = sc.native(item, exact)
		}
	})
	return out, err
}

// maxFuture bounds how far a vehicle's clock may be ahead of the gateway's. A later event time is ignored, since it
// would win over every later message.
const maxFuture = 24 * time.Hour

// lateness returns event_at or late_ms.
func (sc *Scope) lateness(s *Symbol) (any, error) {
	at, ok, err := sc.EventTime(s.when, s.unit)
	switch {
	case err != nil || !ok:
		return nil, err
	case s.kind == symLateMS:
		return int(sc.Record.ReceivedAt - at), nil
	}
	return time.UnixMilli(at).UTC(), nil
}

// EventTime returns the event time in ms since the Unix epoch. ok is false if there is no usable one: no field, not a
// time, before 1970, or more than a day ahead of the time of receipt.
func (sc *Scope) EventTime(path []string, unit TimeUnit) (at int64, ok bool, err error) {
	if path == nil {
		return 0, false, nil
	}
	v, err := sc.Document()
	if err != nil {
		return 0, false, err
	}
	if v = fieldBelow(v, path); v == nil {
		return 0, false, nil
	}
	switch v.Type() {
	case fastjson.TypeNumber:
		f, ferr := v.Float64()
		if ferr != nil {
			return 0, false, nil //nolint:nilerr // not a time counts as missing
		}
		at, ok = epochMillis(f, unit)
	case fastjson.TypeString:
		b, _ := v.StringBytes()
		at, ok = textMillis(string(b), unit)
	}
	return at, ok && at >= 0 && at <= sc.Record.ReceivedAt+maxFuture.Milliseconds(), nil
}

// epochMillis reads a number as a time. Without a unit, numbers from 100,000,000,000 on are milliseconds: that is 1973
// in milliseconds, but the year 5138 in seconds.
func epochMillis(f float64, unit TimeUnit) (int64, bool) {
	const millisFrom = 1e11
	if unit == UnitSeconds || (unit == UnitAuto && f < millisFrom) {
		f *= 1000
	}
	return int64(math.Round(f)), f >= 0 && f < 1<<53
}

func textMillis(s string, unit TimeUnit) (int64, bool) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UnixMilli(), true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, false
	}
	return epochMillis(f, unit)
}

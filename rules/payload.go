package rules

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fastjson"
)

// ErrPayload is wrapped by the error of a rule that needs fields of a payload that is not JSON.
var ErrPayload = errors.New("the payload cannot be decoded as JSON")

// document returns the parsed payload. It is parsed once per record, and only if some rule asks. fastjson
// accepts a little more than RFC 8259 (numbers such as 1-2, bare nan), so it is validated too.
func (sc *scope) document() (*fastjson.Value, error) {
	if sc.parsed == sc.gen {
		return sc.doc, sc.docErr
	}
	sc.parsed, sc.docErr = sc.gen, nil
	doc, err := sc.parser.ParseBytes(sc.rec.Payload)
	if err == nil {
		err = fastjson.ValidateBytes(sc.rec.Payload)
	}
	if err != nil {
		doc, sc.docErr = nil, fmt.Errorf("%w (%d bytes)", ErrPayload, len(sc.rec.Payload))
	}
	sc.doc = doc
	return doc, sc.docErr
}

// field returns a field of the payload, nil when there is none.
func (sc *scope) field(path []string) (*fastjson.Value, error) {
	doc, err := sc.document()
	if err != nil {
		return nil, err
	}
	return doc.Get(path...), nil
}

// value is the value of a name for the record at hand.
func (sc *scope) value(s *symbol) (any, error) {
	switch s.kind {
	case symVIN:
		return sc.vin, nil
	case symCell:
		return sc.cell, nil
	case symTopic:
		return sc.rec.Topic, nil
	case symClass:
		return sc.class, nil
	case symLevels:
		return sc.levels(), nil
	case symLevel:
		return sc.level(s.index), nil
	case symQoS:
		return int(sc.rec.QoS), nil
	case symRetain:
		return sc.rec.Retain, nil
	case symReceivedAt:
		return sc.rec.Time(), nil
	case symRaw:
		return string(sc.rec.Payload), nil
	case symProperties:
		return sc.properties(), nil
	case symProperty:
		return sc.property(s.path[0]), nil
	case symOperator:
		return sc.operValue(s.path[0]), nil
	case symEventAt, symLateMS:
		return sc.lateness(s)
	}
	v, err := sc.field(s.path)
	if err != nil || v == nil {
		return nil, err
	}
	return sc.typed(s, v)
}

func (sc *scope) levels() []any {
	var out []any
	for l := range strings.SplitSeq(sc.rec.Topic, "/") {
		out = append(out, l)
	}
	return out
}

func (sc *scope) level(i int) any {
	for l := range strings.SplitSeq(sc.rec.Topic, "/") {
		if i--; i < 0 {
			return l
		}
	}
	return nil
}

func (sc *scope) properties() map[string]any {
	out := make(map[string]any, len(sc.rec.Props.User))
	for _, p := range sc.rec.Props.User {
		if _, ok := out[p.Name]; !ok {
			out[p.Name] = p.Value
		}
	}
	return out
}

// property is the first user property of a name: names may repeat.
func (sc *scope) property(name string) any {
	for _, p := range sc.rec.Props.User {
		if p.Name == name {
			return p.Value
		}
	}
	return nil
}

func (sc *scope) operValue(name string) any {
	for _, v := range sc.opers {
		if v.name == name {
			return v.value
		}
	}
	return nil
}

// typed converts a payload value, checking what the schema says of it.
func (sc *scope) typed(s *symbol, v *fastjson.Value) (any, error) {
	if s.field == integerField && v.Type() == fastjson.TypeNumber {
		f, err := v.Float64()
		if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return nil, fmt.Errorf("%w: %s is not a whole number", ErrEvaluation, fieldKey("payload", s.path))
		}
		return int(f), nil
	}
	return sc.native(v)
}

// native converts a payload value into what expressions work on. Numbers become float64, so whole
// numbers above 2^53 lose digits; those that overflow are an error.
func (sc *scope) native(v *fastjson.Value) (any, error) {
	switch v.Type() {
	case fastjson.TypeNull:
		return nil, nil //nolint:nilnil // JSON null is nil
	case fastjson.TypeTrue:
		return true, nil
	case fastjson.TypeFalse:
		return false, nil
	case fastjson.TypeNumber:
		f, err := v.Float64()
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%w: a number of the payload is out of range", ErrEvaluation)
		}
		return sc.boxes.number(f), nil
	case fastjson.TypeString:
		b, err := v.StringBytes()
		return sc.boxes.text(b), err
	case fastjson.TypeArray:
		return sc.array(v)
	default:
		return sc.object(v)
	}
}

func (sc *scope) array(v *fastjson.Value) (any, error) {
	items, err := v.Array()
	if err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	for i, item := range items {
		if out[i], err = sc.native(item); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (sc *scope) object(v *fastjson.Value) (any, error) {
	o, err := v.Object()
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, o.Len())
	o.Visit(func(key []byte, item *fastjson.Value) {
		if err != nil {
			return
		}
		if _, repeated := out[string(key)]; !repeated { // the first counts, as for a single field
			out[string(key)], err = sc.native(item)
		}
	})
	return out, err
}

// maxFuture is how far a vehicle's clock may be ahead of ours; an event time beyond is not believed,
// since it would win over every later message.
const maxFuture = 24 * time.Hour

// lateness is event_at, or late_ms.
func (sc *scope) lateness(s *symbol) (any, error) {
	at, ok, err := sc.eventTime(s.when, s.unit)
	switch {
	case err != nil || !ok:
		return nil, err
	case s.kind == symLateMS:
		return int(sc.rec.ReceivedAt - at), nil
	}
	return time.UnixMilli(at).UTC(), nil
}

// eventTime reads the event time, in ms since the Unix epoch. ok is false when there is none that can be
// used: no field, not a time, before 1970 or more than a day ahead of the message's arrival.
func (sc *scope) eventTime(path []string, unit timeUnit) (at int64, ok bool, err error) {
	if path == nil {
		return 0, false, nil
	}
	v, err := sc.field(path)
	if err != nil || v == nil {
		return 0, false, err
	}
	switch v.Type() {
	case fastjson.TypeNumber:
		f, ferr := v.Float64()
		if ferr != nil {
			return 0, false, nil //nolint:nilerr // not a time: as if there were none
		}
		at, ok = epochMillis(f, unit)
	case fastjson.TypeString:
		b, _ := v.StringBytes()
		at, ok = textMillis(string(b), unit)
	}
	return at, ok && at >= 0 && at <= sc.rec.ReceivedAt+maxFuture.Milliseconds(), nil
}

// epochMillis reads a number as a time. Without a unit, from 100,000,000,000 on it is milliseconds: as
// such that is 1973, as seconds the year 5138.
func epochMillis(f float64, unit timeUnit) (int64, bool) {
	const millisFrom = 1e11
	if unit == unitSeconds || (unit == unitAuto && f < millisFrom) {
		f *= 1000
	}
	return int64(math.Round(f)), f >= 0 && f < 1<<53
}

func textMillis(s string, unit timeUnit) (int64, bool) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UnixMilli(), true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, false
	}
	return epochMillis(f, unit)
}

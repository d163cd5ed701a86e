package rules

import (
	"fmt"
	"time"

	"github.com/valyala/fastjson"
)

// maxHashFields bounds what `fields` takes from one payload.
const maxHashFields = 512

// redisTarget is a compiled Redis operation.
type redisTarget struct {
	kind      RedisKind
	key       *template
	names     []string // of set
	values    []*value
	fields    *expression // the object whose scalar fields are taken
	fieldPath []string    // the way to it
	newerThan string
	member    *expression // nil: the VIN
	value     *expression // nil: the transform, else the payload
	lon, lat  *expression
	ttl       time.Duration
	maxLen    int64
}

func (n *names) redisTarget(d *document, def *redisDef) *redisTarget {
	t := &redisTarget{kind: def.kind, newerThan: def.newerThan, ttl: def.ttl, maxLen: int64(def.maxLen)}
	t.key = n.template(d, def.key)
	t.member, t.value = n.compile(d, def.member, wantAny), n.compile(d, def.value, wantAny)
	t.lon, t.lat = n.compile(d, def.lon, wantAny), n.compile(d, def.lat, wantAny)
	if def.set != nil {
		for i, item := range def.set.items {
			t.names = append(t.names, def.set.names[i])
			t.values = append(t.values, n.value(d, item))
		}
	}
	if def.fields != nil {
		t.fields = n.compile(d, def.fields, wantAny)
		switch {
		case t.fields == nil:
			return nil
		case t.fields.field >= 0:
			t.fieldPath = n.symbols.list[t.fields.field].path
		case t.fields.text != "payload":
			d.fail(def.fields.line, def.fields.col, CodeWrongType, "write fields: payload, or an object in it such as payload.position",
				`"fields" must be the payload or a field of it`)
			return nil
		}
	}
	if t.key == nil {
		return nil
	}
	return t
}

// ordered reports whether the time of the event decides on a write.
func (t *redisTarget) ordered() bool { return t != nil && t.newerThan != "" }

func (t *redisTarget) usesOperator() bool {
	if t == nil {
		return false
	}
	for _, v := range t.values {
		if v.usesOperator() {
			return true
		}
	}
	return t.key.usesOperator() || t.member.usesOperator() || t.value.usesOperator() ||
		t.lon.usesOperator() || t.lat.usesOperator()
}

// render fills r.Redis.
func (t *redisTarget) render(sc *scope, rule *rule, r *Rendered) error {
	op := &r.Redis
	*op = RedisOp{Kind: t.kind, Fields: op.Fields[:0], TTL: t.ttl, MaxLen: t.maxLen, Seq: sc.rec.Seq}
	var err error
	if op.Key, err = t.key.text(sc); err != nil {
		return err
	}
	switch t.kind {
	case RedisHash, RedisStream:
		if err := t.renderFields(sc, rule, r); err != nil {
			return err
		}
		return t.order(sc, rule, op)
	case RedisSetAdd, RedisSetRemove:
		op.Member, err = t.renderMember(sc, r)
	case RedisGeo:
		if op.Member, err = t.renderMember(sc, r); err == nil {
			err = t.position(sc, op)
		}
	case RedisString, RedisPublish:
		op.Value, err = t.renderValue(sc, rule, r)
	}
	return err
}

// order sets what decides whether a write is newer.
func (t *redisTarget) order(sc *scope, rule *rule, op *RedisOp) error {
	op.NewerThan, op.At, op.Believed = t.newerThan, sc.rec.ReceivedAt, sc.rec.ReceivedAt+maxAhead.Milliseconds()
	if t.newerThan == "" {
		return nil
	}
	at, ok, err := sc.eventTime(rule.schema.eventAt, rule.schema.unit)
	if ok {
		op.At, op.OwnTime = at, true
	}
	return err
}

// maxAhead is how far behind a wrong clock a hash can be held up: the time in it may lie that far ahead of the receipt of a
// message that has the right time.
const maxAhead = 5 * time.Minute

func (t *redisTarget) renderFields(sc *scope, rule *rule, r *Rendered) error {
	if t.fields != nil {
		if err := sc.payloadFields(t.fieldPath, t.newerThan, r); err != nil {
			return err
		}
	}
	for i, v := range t.values {
		from := len(r.buf)
		if err := sc.renderText(v, r); err != nil {
			return err
		}
		r.setField(t.names[i], r.buf[from:len(r.buf):len(r.buf)])
	}
	if t.fields == nil && t.values == nil { // a stream entry of the whole message
		value, err := t.renderValue(sc, rule, r)
		if err != nil {
			return err
		}
		r.setField("payload", value)
	}
	return nil
}

// setField adds a field, or replaces the one of that name.
func (r *Rendered) setField(name string, value []byte) {
	for i := range r.Redis.Fields {
		if r.Redis.Fields[i].Name == name {
			r.Redis.Fields[i].Value = value
			return
		}
	}
	r.Redis.Fields = append(r.Redis.Fields, Field{Name: name, Value: value})
}

// renderText appends a value as text: an expression's as it is, a mapping or list as JSON, nothing for nil.
func (sc *scope) renderText(v *value, r *Rendered) (err error) {
	if v.expr == nil {
		r.buf, err = v.render(sc, r.buf)
		return err
	}
	if v.expr.field >= 0 {
		f, err := sc.field(sc.set.symbols[v.expr.field].path)
		if err != nil {
			return err
		}
		r.buf = appendScalar(r.buf, f)
		return nil
	}
	r.buf, _, err = sc.appendPlain(r.buf, v.expr)
	return err
}

// appendScalar appends a payload value as text, numbers as they were sent.
func appendScalar(dst []byte, v *fastjson.Value) []byte {
	if v == nil || v.Type() == fastjson.TypeNull {
		return dst
	}
	if v.Type() == fastjson.TypeString {
		b, _ := v.StringBytes()
		return append(dst, b...)
	}
	return appendField(dst, v)
}

// payloadFields takes the scalar fields of an object of the payload: text, numbers, true and false. Null,
// lists and objects are left out, and so are names that begin with "_", which the gateway uses itself. An object without any is an error unless the operation keeps a time.
func (sc *scope) payloadFields(path []string, newerThan string, r *Rendered) error {
	v, err := sc.field(path)
	if err != nil {
		return err
	}
	if v == nil || v.Type() != fastjson.TypeObject {
		return fmt.Errorf("%w: %s is not an object", ErrRender, fieldKey("payload", path))
	}
	o, err := v.Object()
	if err != nil {
		return err
	}
	place := -1
	o.Visit(func(key []byte, item *fastjson.Value) {
		place++
		switch item.Type() {
		case fastjson.TypeString, fastjson.TypeNumber, fastjson.TypeTrue, fastjson.TypeFalse:
		default:
			return
		}
		if len(key) == 0 || key[0] == '_' {
			return
		}
		if len(r.Redis.Fields) == maxHashFields {
			err = fmt.Errorf("%w: more than %d fields", ErrRender, maxHashFields)
			return
		}
		from := len(r.buf)
		r.buf = appendScalar(r.buf, item)
		r.Redis.Fields = append(r.Redis.Fields, Field{Name: sc.nameAt(place, key), Value: r.buf[from:len(r.buf):len(r.buf)]})
	})
	if err == nil && len(r.Redis.Fields) == 0 && newerThan == "" {
		err = fmt.Errorf("%w: %s has no scalar fields", ErrRender, fieldKey("payload", path))
	}
	return err
}

// maxNames bounds the field names that a scope keeps as strings.
const maxNames = 4096

// nameAt is name for the field at a place of its object. A vehicle writes its fields in one order, as do most of its
// kind: comparing with the name that stood there last saves most look-ups.
func (sc *scope) nameAt(place int, b []byte) string {
	if place < len(sc.order) && sc.order[place] == string(b) {
		return sc.order[place]
	}
	s := sc.name(b)
	switch {
	case place < len(sc.order):
		sc.order[place] = s
	case place < maxHashFields:
		for len(sc.order) < place {
			sc.order = append(sc.order, "")
		}
		sc.order = append(sc.order, s)
	}
	return s
}

// name makes a string of a field's name, the same one for the same name.
func (sc *scope) name(b []byte) string {
	if s, ok := sc.names[string(b)]; ok {
		return s
	}
	if sc.names == nil || len(sc.names) >= maxNames {
		sc.names = make(map[string]string)
	}
	s := string(b)
	if len(s) <= maxBoxedText {
		sc.names[s] = s
	}
	return s
}

func (t *redisTarget) renderMember(sc *scope, r *Rendered) ([]byte, error) {
	from := len(r.buf)
	if t.member == nil {
		r.buf = append(r.buf, sc.vin...)
		return r.buf[from:len(r.buf):len(r.buf)], nil
	}
	var ok bool
	var err error
	r.buf, ok, err = sc.appendPlain(r.buf, t.member)
	if err == nil && !ok {
		err = fmt.Errorf("%w: member is missing: %s", ErrRender, t.member.text)
	}
	return r.buf[from:len(r.buf):len(r.buf)], err
}

func (t *redisTarget) position(sc *scope, op *RedisOp) error {
	var okLon, okLat bool
	var err error
	if op.Lon, okLon, err = sc.number(t.lon); err != nil {
		return err
	}
	if op.Lat, okLat, err = sc.number(t.lat); err != nil {
		return err
	}
	// The range of GEOADD (redis.io, GEOADD).
	if !okLon || !okLat || op.Lon < -180 || op.Lon > 180 || op.Lat < -85.05112878 || op.Lat > 85.05112878 {
		return fmt.Errorf("%w: the position is missing or out of range", ErrRender)
	}
	return nil
}

// renderValue is the value expression, else the transform, else the payload.
func (t *redisTarget) renderValue(sc *scope, rule *rule, r *Rendered) ([]byte, error) {
	from := len(r.buf)
	var err error
	switch {
	case t.value != nil:
		r.buf, _, err = sc.appendPlain(r.buf, t.value)
	case rule.transform != nil:
		r.buf, err = rule.transform.render(sc, r.buf)
	default:
		return sc.rec.Payload, nil
	}
	return r.buf[from:len(r.buf):len(r.buf)], err
}

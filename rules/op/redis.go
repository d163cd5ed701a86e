package op

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/duration"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// SinkRedis is the cell's Redis.
const SinkRedis SinkKind = "redis"

// Redis describes the target redis.
var Redis = Target{
	Kind:      SinkRedis,
	Keys:      RedisKeys(),
	Check:     redisCheck,
	Schema:    redisSchema,
	New:       newRedis,
	View:      redisView,
	Expect:    append(KeyNames(redisOperationKeys()), "fields", "value", "member", "lon", "lat", "ttl", "at"),
	Reference: "`redis: {…}`: one operation on one key, a row of the table below.",
}

// RedisKind names a Redis operation: a row of redisOperations.
type RedisKind uint8

// Redis operations. Each comment gives the command that the sink sends.
const (
	RedisHash      RedisKind = iota + 1 // HSET Key Fields…; with NewerThan a script that writes only if not older
	RedisString                         // SET Key Value
	RedisStream                         // XADD Key MAXLEN ~ MaxLen * Fields…
	RedisSetAdd                         // SADD Key Member
	RedisSetRemove                      // SREM Key Member
	RedisGeo                            // GEOADD Key Lon Lat Member
	RedisPublish                        // PUBLISH Key Value
	RedisExpire                         // PEXPIRE Key TTL
	RedisDelete                         // DEL Key
	RedisKinds                          // the number of kinds plus one
)

// RedisOp is one operation on one key.
type RedisOp struct {
	Kind RedisKind
	Key  string
	// Nothing means that the message lacks everything that would be written: the sink writes nothing.
	Nothing bool
	// Fields of RedisHash and RedisStream, in the rule's order; names are unique.
	Fields []expr.Field
	// Member of RedisSetAdd, RedisSetRemove and RedisGeo.
	Member []byte
	// Value of RedisString and RedisPublish.
	Value    []byte
	Lon, Lat float64
	// TTL is set on Key after the operation when it is above 0. The range is 1 ms to 10 years.
	TTL time.Duration
	// MaxLen trims a stream approximately; 0 does not trim.
	MaxLen int64
	// NewerThan names the hash field with the time of the last write; "" if the rule does not ask for order. The write
	// happens only if (At, Seq) is not before the hash's; for a message without an event time only if neither At nor
	// Seq is.
	NewerThan string
	// At is the message's event time, else its time of receipt, in ms since the Unix epoch. OwnTime means that it is
	// the event time.
	At      int64
	OwnTime bool
	// Believed is the latest plausible time in the hash, in ms since the Unix epoch. A time after it comes from a wrong
	// clock and does not hold back a message unless its own time is after Believed too.
	Believed int64
	// Seq is the record's journal sequence. It decides between equal At.
	Seq uint64
}

// AtText returns At as stored in the NewerThan field: RFC 3339 in UTC with milliseconds, always 24 characters, so that
// text order is time order.
func (o *RedisOp) AtText() string {
	return string(message.AppendTime(nil, o.At))
}

// RedisKeys returns the keys of the target.
func RedisKeys() []Key {
	return append(redisOperationKeys(),
		Key{Name: "set", Value: Value{schema: JSON{"type": "object", "additionalProperties": Ref("value"), "minProperties": 1}, read: readSet}},
		Key{Name: "fields", Value: expressionValue},
		Key{Name: "newer_than", Value: Value{schema: TextOf("the hash field for the time"), read: readNewerThan}},
		Key{Name: "value", Value: expressionValue},
		Key{Name: "member", Value: expressionValue},
		Key{Name: "lon", Value: expressionValue},
		Key{Name: "lat", Value: expressionValue},
		Key{Name: "max_len", Value: integerValue(1, 100_000_000)},
		Key{Name: "ttl", Value: durationValue},
	)
}

// redisOperation describes an operation. Its key may have other keys next to it.
type redisOperation struct {
	key     string
	written string // placeholder after the key in the table of rules/README.md
	does    string // the second cell of that row
	options []string
	needs   []string // at least one is required
	example string   // of the required keys
	// position means that lon and lat are both required.
	position bool
	// render renders the message except its key; nil if there is only the key.
	render func(t *redisTarget, sc *expr.Scope, r *Rendered) error
}

var redisOperations = [RedisKinds]redisOperation{
	RedisHash: {
		key: "hash", options: []string{"set", "fields", "newer_than", "ttl"}, needs: []string{"set", "fields"},
		example: "for example fields: payload, or set: {soc: payload.soc}", render: (*redisTarget).renderFields,
		written: `"veh:${vin}"`,
		does: "sets fields of a hash: those of `set: {name: value, …}`, and with `fields: payload` (or an object in it: `payload.position`) " +
			"every text, number, true and false of it under its own name; null, lists, objects and names that begin with `_` are left out. " +
			"With `newer_than: _at` the field `_at` has the message's event time (else its received time), and an older message changes nothing. " +
			"A stored time more than 5 minutes after a message's receipt comes from a wrong clock and is ignored; " +
			"a message without an event time is never older than an earlier one",
	},
	RedisString: {
		key: "string", options: []string{"value", "ttl"}, render: (*redisTarget).renderValue,
		written: `"soc:${vin}"`, does: "sets a value",
	},
	RedisStream: {
		key: "stream", options: []string{"set", "fields", "max_len", "ttl"}, render: (*redisTarget).renderFields,
		written: `"alerts:${class}"`, does: "appends an entry; without `set` and `fields` one field `payload`",
	},
	RedisSetAdd: {
		key: "set_add", options: []string{"member", "ttl"}, render: (*redisTarget).renderMember,
		written: "online", does: "adds `member`, the VIN unless given, to a set",
	},
	RedisSetRemove: {
		key: "set_remove", options: []string{"member"}, render: (*redisTarget).renderMember,
		written: "online", does: "removes `member`, the VIN unless given, from a set",
	},
	RedisGeo: {
		key: "geo", options: []string{"lon", "lat", "member", "ttl"}, needs: []string{"lon"}, position: true,
		example: "for example lon: payload.lon, lat: payload.lat", render: (*redisTarget).renderPosition,
		written: "fleet", does: "stores the vehicle's position",
	},
	RedisPublish: {
		key: "publish", options: []string{"value"}, render: (*redisTarget).renderValue,
		written: `"alerts:${vin}"`, does: "publishes to current subscribers",
	},
	RedisExpire: {
		key: "expire", options: []string{"ttl"}, needs: []string{"ttl"}, example: "for example ttl: 1h",
		written: `"veh:${vin}"`, does: "sets the time after which a key expires",
	},
	RedisDelete: {key: "delete", written: `"veh:${vin}"`, does: "removes a key"},
}

func redisOperationKeys() []Key {
	var keys []Key
	for _, o := range redisOperations[1:] {
		keys = append(keys, Key{Name: o.key, Value: templateValue})
	}
	return keys
}

// redisCheck finds the one operation among the keys and checks the other keys against it.
func redisCheck(o *doc.Object) bool {
	var found []*redisOperation
	for i := range redisOperations[1:] {
		if op := &redisOperations[1+i]; o.Has(op.key) {
			found = append(found, op)
		}
	}
	if len(found) == 0 && o.Odd {
		return false // already reported: the unknown key is meant as the operation
	}
	if len(found) != 1 {
		o.Doc.FailAt(o.Node, doc.CodeTwoSinks, "write one of: "+strings.Join(KeyNames(redisOperationKeys()), ", "),
			"a redis target has exactly one operation, this has %d", len(found))
		return false
	}
	return found[0].check(o)
}

func (op *redisOperation) check(o *doc.Object) bool {
	ok := true
	for key, at := range o.Keys {
		if key != op.key && !slices.Contains(op.options, key) {
			o.Doc.Fail(at.Line, at.Col, doc.CodeRedisOption, "beside "+op.key+" there may be: "+strings.Join(op.options, ", "), "%q has no meaning for %q", key, op.key)
			ok = false
		}
	}
	has := func(key string) bool { return o.Has(key) }
	if len(op.needs) > 0 && !slices.ContainsFunc(op.needs, has) {
		if slices.ContainsFunc(op.needs, func(key string) bool { return o.Meant[key] }) {
			return false
		}
		o.Doc.FailAt(o.Node, doc.CodeMissing, op.example, "%q needs %s", op.key, strings.Join(op.needs, " or "))
		ok = false
	}
	if op.position && o.Has("lon") != o.Has("lat") {
		o.Doc.FailAt(o.Node, doc.CodeMissing, op.example, "%q needs lon and lat", op.key)
		ok = false
	}
	return ok
}

func readSet(o *doc.Object, key string) (any, bool) {
	v := expr.ReadValue(o.Doc, o.Values[key], strconv.Quote(key), 0)
	if v == nil || v.Expr != nil || v.IsList || len(v.Items) == 0 {
		if v != nil {
			o.Doc.FailAt(o.Values[key], doc.CodeWrongType, "for example set: {soc: payload.soc}", `"set" must be a mapping of fields to values`)
		}
		return nil, false
	}
	return v, true
}

type fieldName string

// Shown returns the text for a diff.
func (f fieldName) Shown() string { return string(f) }

func readNewerThan(o *doc.Object, key string) (any, bool) {
	s, ok := o.Text(key)
	if ok && (s.Value == "" || len(s.Value) > 64) {
		o.Doc.Fail(s.Line, s.Col, doc.CodeBadName, "write the name of the hash field for the time: _at", "%q is not a field name", s.Value)
	}
	return fieldName(s.Value), ok
}

// redisSchema returns the schema: one of the operations, each with its options.
func redisSchema() JSON {
	options := JSON{}
	for _, k := range RedisKeys() {
		options[k.Name] = k.Value.schema
	}
	var one []JSON
	for _, o := range redisOperations[1:] {
		p := JSON{o.key: options[o.key]}
		for _, name := range o.options {
			p[name] = options[name]
		}
		one = append(one, Shape(p, o.key))
	}
	return OneOf(one...)
}

type redisTarget struct {
	kind      RedisKind
	key       *expr.Template
	names     []string // of set
	values    []*expr.Value
	fields    *expr.Expression // the object whose scalar fields are written
	fieldPath []string         // path of that object
	newerThan string
	eventAt   []string
	unit      expr.TimeUnit
	member    *expr.Expression // nil: the VIN
	value     *expr.Expression // nil: the transform, else the payload
	transform *expr.Value
	lon, lat  *expr.Expression
	ttl       time.Duration
	maxLen    int64
}

func newRedis(a *Args) Sender {
	kind := redisKind(a)
	t := &redisTarget{kind: kind, ttl: a.duration("ttl"), maxLen: int64(a.integer("max_len"))}
	if name, ok := a.Values["newer_than"].(fieldName); ok {
		t.newerThan = string(name)
	}
	t.key = a.template(redisOperations[kind].key)
	t.member, t.value = a.expression("member"), a.expression("value")
	t.lon, t.lat = a.expression("lon"), a.expression("lat")
	if set, ok := a.Values["set"].(*expr.Tree); ok {
		t.names = set.Names
		for _, item := range set.Items {
			t.values = append(t.values, a.env.Value(a.d, item))
			a.compiled(t.values[len(t.values)-1].Code())
		}
	}
	if t.newerThan != "" {
		t.eventAt, t.unit = a.eventTime()
	}
	if t.fields = a.expression("fields"); a.Values["fields"] != nil {
		if t.fields == nil {
			return nil
		}
		if ok := t.fieldsOf(a); !ok {
			return nil
		}
	}
	if t.value == nil && t.fields == nil && t.values == nil {
		t.transform = a.Transform()
	}
	if t.key == nil {
		return nil
	}
	if name := redisOperations[kind].key; reservedKey(t.key.Sample()) {
		s := a.Scalar(name)
		a.Fail(s, doc.CodeRedisOption, "choose another beginning", "keys that begin with %q are reserved for the gateways", reservedPrefix)
		return nil
	}
	return t
}

// reservedPrefix starts the keys and channels through which gateways share vehicle data. Rules must not write them.
const reservedPrefix = "cellgate:"

func reservedKey(key string) bool {
	return strings.HasPrefix(strings.TrimPrefix(key, "{"), reservedPrefix)
}

func redisKind(a *Args) RedisKind {
	for kind := range RedisKinds {
		if a.Values[redisOperations[kind].key] != nil {
			return kind
		}
	}
	return 0
}

// fieldsOf finds the path of the object whose fields are written.
func (t *redisTarget) fieldsOf(a *Args) bool {
	switch {
	case t.fields.Field >= 0:
		t.fieldPath = a.env.Symbols.List[t.fields.Field].Path
	case t.fields.Text != "payload":
		s := a.Scalar("fields")
		a.Fail(s, doc.CodeWrongType, "write fields: payload, or an object in it such as payload.position",
			`"fields" must be the payload or a field of it`)
		return false
	}
	return true
}

// Render implements Sender.
func (t *redisTarget) Render(sc *expr.Scope, r *Rendered) error {
	op := &r.Redis
	*op = RedisOp{Kind: t.kind, Fields: op.Fields[:0], TTL: t.ttl, MaxLen: t.maxLen, Seq: sc.Record.Seq}
	var err error
	if op.Key, err = t.key.Text(sc); err != nil {
		return err
	}
	if reservedKey(op.Key) {
		return fmt.Errorf("%w: keys that begin with %q are reserved for the gateways", expr.ErrRender, reservedPrefix)
	}
	if render := redisOperations[t.kind].render; render != nil {
		return render(t, sc, r)
	}
	return nil
}

func (t *redisTarget) renderFields(sc *expr.Scope, r *Rendered) (err error) {
	if t.fields != nil {
		r.Buf, r.Redis.Fields, err = sc.AppendFields(t.fieldPath, r.Buf, r.Redis.Fields)
		if err != nil {
			return err
		}
		if len(r.Redis.Fields) == 0 && t.newerThan == "" {
			return fmt.Errorf("%w: %s has no scalar fields", expr.ErrRender, expr.FieldKey("payload", t.fieldPath))
		}
	}
	for i, v := range t.values {
		from, there := len(r.Buf), false
		if r.Buf, there, err = sc.AppendValue(r.Buf, v); err != nil {
			return err
		}
		if there {
			r.setField(t.names[i], r.Buf[from:len(r.Buf):len(r.Buf)])
		}
	}
	if t.fields == nil && t.values != nil && len(r.Redis.Fields) == 0 {
		r.Redis.Nothing = true
		return nil
	}
	if t.fields == nil && t.values == nil { // a stream entry with the whole message
		if err := t.renderValue(sc, r); err != nil {
			return err
		}
		r.setField("payload", r.Redis.Value)
		r.Redis.Value = nil
	}
	return t.order(sc, &r.Redis)
}

// setField adds a field or replaces the one with that name.
func (r *Rendered) setField(name string, value []byte) {
	for i := range r.Redis.Fields {
		if r.Redis.Fields[i].Name == name {
			r.Redis.Fields[i].Value = value
			return
		}
	}
	r.Redis.Fields = append(r.Redis.Fields, expr.Field{Name: name, Value: value})
}

// order sets the values that decide whether a write is newer.
func (t *redisTarget) order(sc *expr.Scope, op *RedisOp) error {
	op.NewerThan, op.At, op.Believed = t.newerThan, sc.Record.ReceivedAt, sc.Record.ReceivedAt+maxAhead.Milliseconds()
	if t.newerThan == "" {
		return nil
	}
	at, ok, err := sc.EventTime(t.eventAt, t.unit)
	if ok {
		op.At, op.OwnTime = at, true
	}
	return err
}

// maxAhead bounds the effect of a wrong clock on a hash: a stored time further ahead of a message's receipt is ignored.
const maxAhead = 5 * time.Minute

func (t *redisTarget) renderMember(sc *expr.Scope, r *Rendered) error {
	from := len(r.Buf)
	var ok bool
	var err error
	if t.member == nil {
		r.Buf = append(r.Buf, sc.VIN...)
	} else if r.Buf, ok, err = sc.AppendPlain(r.Buf, t.member); err == nil && !ok {
		err = fmt.Errorf("%w: member is missing: %s", expr.ErrRender, t.member.Text)
	}
	r.Redis.Member = r.Buf[from:len(r.Buf):len(r.Buf)]
	return err
}

func (t *redisTarget) renderPosition(sc *expr.Scope, r *Rendered) error {
	op := &r.Redis
	if err := t.renderMember(sc, r); err != nil {
		return err
	}
	var okLon, okLat bool
	var err error
	if op.Lon, okLon, err = sc.Number(t.lon); err != nil {
		return err
	}
	if op.Lat, okLat, err = sc.Number(t.lat); err != nil {
		return err
	}
	// The range of GEOADD (redis.io, GEOADD).
	if !okLon || !okLat || op.Lon < -180 || op.Lon > 180 || op.Lat < -85.05112878 || op.Lat > 85.05112878 {
		return fmt.Errorf("%w: the position is missing or out of range", expr.ErrRender)
	}
	return nil
}

// renderValue renders the value expression, else the transform, else the payload.
func (t *redisTarget) renderValue(sc *expr.Scope, r *Rendered) error {
	from := len(r.Buf)
	var err error
	switch {
	case t.value != nil:
		there := false
		if r.Buf, there, err = sc.AppendPlain(r.Buf, t.value); err == nil && !there {
			r.Redis.Nothing = true
			return nil
		}
	case t.transform != nil:
		r.Buf, err = t.transform.Render(sc, r.Buf)
	default:
		r.Redis.Value = sc.Record.Payload
		return nil
	}
	r.Redis.Value = r.Buf[from:len(r.Buf):len(r.Buf)]
	return err
}

func redisView(r *Rendered) map[string]any {
	o := &r.Redis
	operation := &redisOperations[o.Kind]
	v := map[string]any{operation.key: o.Key}
	if o.Nothing {
		v["nothing"] = "the message has none of the fields to write"
		return v
	}
	if len(o.Fields) > 0 {
		fields := map[string]any{}
		for _, f := range o.Fields {
			fields[f.Name] = string(f.Value)
		}
		v["fields"] = fields
	}
	if o.NewerThan != "" {
		v["at"] = o.AtText()
	}
	if o.Member != nil {
		v["member"] = string(o.Member)
	}
	if o.Value != nil {
		v["value"] = PayloadView(o.Value)
	}
	if operation.position {
		v["lon"], v["lat"] = o.Lon, o.Lat
	}
	if o.TTL > 0 {
		v["ttl"] = duration.Text(o.TTL)
	}
	return v
}

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

// The Redis operations; the comment gives the command that the sink sends.
const (
	RedisHash      RedisKind = iota + 1 // HSET Key Fields…; with NewerThan only if not older (a script)
	RedisString                         // SET Key Value
	RedisStream                         // XADD Key MAXLEN ~ MaxLen * Fields…
	RedisSetAdd                         // SADD Key Member
	RedisSetRemove                      // SREM Key Member
	RedisGeo                            // GEOADD Key Lon Lat Member
	RedisPublish                        // PUBLISH Key Value
	RedisExpire                         // PEXPIRE Key TTL
	RedisDelete                         // DEL Key
	RedisKinds                          // the number of kinds, and one
)

// RedisOp is one operation on one key.
type RedisOp struct {
	Kind RedisKind
	Key  string
	// Nothing says that the message lacks all that was to be written: what is in Redis stays as it is.
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
	// MaxLen trims a stream approximately; 0 leaves it.
	MaxLen int64
	// NewerThan names the hash field that keeps the time of the last write; "" when the rule does not ask
	// of order. The write takes place only if (At, Seq) is not before what the hash holds; of a message without an
	// event time only if neither At nor Seq is.
	NewerThan string
	// At is the message's event time, else its received time, in milliseconds since the Unix epoch; OwnTime says that
	// it is the event time.
	At      int64
	OwnTime bool
	// Believed is up to when the hash's time is believed: one beyond is a wrong clock's and holds nobody up whose
	// message is not from beyond too.
	Believed int64
	// Seq is the record's journal sequence; it decides between equal At.
	Seq uint64
}

// AtText is the form in which At is kept in the NewerThan field: RFC 3339 in UTC with milliseconds,
// always 24 characters, so that text order is time order.
func (o *RedisOp) AtText() string {
	return string(message.AppendTime(nil, o.At))
}

// RedisKeys are the keys of the target.
func RedisKeys() []Key {
	return append(redisOperationKeys(),
		Key{Name: "set", Value: Value{schema: JSON{"type": "object", "additionalProperties": Ref("value"), "minProperties": 1}, read: readSet}},
		Key{Name: "fields", Value: expressionValue},
		Key{Name: "newer_than", Value: Value{schema: TextOf("the hash field that keeps the time"), read: readNewerThan}},
		Key{Name: "value", Value: expressionValue},
		Key{Name: "member", Value: expressionValue},
		Key{Name: "lon", Value: expressionValue},
		Key{Name: "lat", Value: expressionValue},
		Key{Name: "max_len", Value: integerValue(1, 100_000_000)},
		Key{Name: "ttl", Value: durationValue},
	)
}

// redisOperation describes an operation: a key of the target beside which others may stand.
type redisOperation struct {
	key     string
	written string // after the key, in its row of the table in rules/README.md
	does    string // the rest of that row
	options []string
	needs   []string // at least one of these
	example string   // of what it needs
	// position says that it takes lon and lat, both.
	position bool
	// render makes the message but for the key; nil when that is all.
	render func(t *redisTarget, sc *expr.Scope, r *Rendered) error
}

// redisOperations are all operations, by kind.
var redisOperations = [RedisKinds]redisOperation{
	RedisHash: {
		key: "hash", options: []string{"set", "fields", "newer_than", "ttl"}, needs: []string{"set", "fields"},
		example: "for example fields: payload, or set: {soc: payload.soc}", render: (*redisTarget).renderFields,
		written: `"veh:${vin}"`,
		does: "sets fields of a hash: those of `set: {name: value, …}`, and with `fields: payload` (or an object in it: `payload.position`) " +
			"every text, number, true and false of it under its own name; null, lists, objects and names that begin with `_` are left out. " +
			"With `newer_than: _at` the field `_at` keeps the message's event time (else its received time), and an older message changes nothing. " +
			"A time more than 5 minutes ahead of a message's receipt is a wrong clock's and does not hold that message up; " +
			"a message without an event time is never older than what came before it",
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
		written: "fleet", does: "puts the vehicle on a map",
	},
	RedisPublish: {
		key: "publish", options: []string{"value"}, render: (*redisTarget).renderValue,
		written: `"alerts:${vin}"`, does: "tells whoever listens now",
	},
	RedisExpire: {
		key: "expire", options: []string{"ttl"}, needs: []string{"ttl"}, example: "for example ttl: 1h",
		written: `"veh:${vin}"`, does: "lets a key end later",
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

// redisCheck finds the one operation that the keys name and checks the others against it.
func redisCheck(o *doc.Object) bool {
	var found []*redisOperation
	for i := range redisOperations[1:] {
		if op := &redisOperations[1+i]; o.Has(op.key) {
			found = append(found, op)
		}
	}
	if len(found) == 0 && o.Odd {
		return false // reported: the unknown key was to be the operation
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

// fieldName names a field of a hash.
type fieldName string

// Shown is the text in a diff.
func (f fieldName) Shown() string { return string(f) }

func readNewerThan(o *doc.Object, key string) (any, bool) {
	s, ok := o.Text(key)
	if ok && (s.Value == "" || len(s.Value) > 64) {
		o.Doc.Fail(s.Line, s.Col, doc.CodeBadName, "write the name of the hash field that keeps the time: _at", "%q is not a field name", s.Value)
	}
	return fieldName(s.Value), ok
}

// redisSchema is one of the operations, each with its options.
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

// redisTarget is a compiled Redis operation.
type redisTarget struct {
	kind      RedisKind
	key       *expr.Template
	names     []string // of set
	values    []*expr.Value
	fields    *expr.Expression // the object whose scalar fields are taken
	fieldPath []string         // the way to it
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
		a.Fail(s, doc.CodeRedisOption, "choose another beginning", "keys that begin with %q are the gateways' own", reservedPrefix)
		return nil
	}
	return t
}

// reservedPrefix begins the keys and channels by which gateways share what is a vehicle's: no rule may write them.
const reservedPrefix = "cellgate:"

func reservedKey(key string) bool {
	return strings.HasPrefix(strings.TrimPrefix(key, "{"), reservedPrefix)
}

// redisKind is the operation that the keys name.
func redisKind(a *Args) RedisKind {
	for kind := range RedisKinds {
		if a.Values[redisOperations[kind].key] != nil {
			return kind
		}
	}
	return 0
}

// fieldsOf finds the way to the object whose fields are taken.
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
		return fmt.Errorf("%w: keys that begin with %q are the gateways' own", expr.ErrRender, reservedPrefix)
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
	if t.fields == nil && t.values == nil { // a stream entry of the whole message
		if err := t.renderValue(sc, r); err != nil {
			return err
		}
		r.setField("payload", r.Redis.Value)
		r.Redis.Value = nil
	}
	return t.order(sc, &r.Redis)
}

// setField adds a field, or replaces the one of that name.
func (r *Rendered) setField(name string, value []byte) {
	for i := range r.Redis.Fields {
		if r.Redis.Fields[i].Name == name {
			r.Redis.Fields[i].Value = value
			return
		}
	}
	r.Redis.Fields = append(r.Redis.Fields, expr.Field{Name: name, Value: value})
}

// order sets what decides whether a write is newer.
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

// maxAhead is how far behind a wrong clock a hash can be held up: the time in it may lie that far ahead of the receipt of a
// message that has the right time.
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

// renderValue is the value expression, else the transform, else the payload.
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
		v["nothing"] = "the message lacks what was to be written"
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

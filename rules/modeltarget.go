package rules

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

func (r *ruleDef) readTargets(o *object) {
	n, ok := o.values["to"]
	if !ok {
		o.missing("to", "for example to: [{kafka: {topic: vehicle.telemetry}}]")
		return
	}
	nodes := []ast.Node{n}
	if _, single := n.(*ast.MappingNode); !single {
		if nodes, ok = o.d.list(n, `"to"`); !ok {
			return
		}
	}
	if len(nodes) == 0 || len(nodes) > maxTargets {
		o.d.failAt(n, CodeNoTarget, "", "a rule has from 1 to %d targets", maxTargets)
	}
	for _, n := range nodes {
		if t := readTarget(o.d, n); t != nil {
			r.to = append(r.to, t)
		}
	}
}

func readTarget(d *document, n ast.Node) *targetDef {
	sinks := []string{"kafka", "redis", "central"}
	if d.besideSink(n, sinks) {
		return nil
	}
	o, ok := d.object(n, "a target", sinks...)
	if !ok {
		return nil
	}
	switch len(o.values) {
	case 0:
		if o.odd {
			return nil
		}
		d.failAt(n, CodeNoTarget, "write kafka, redis or central", "a target without a sink")
		return nil
	case 1:
	default:
		d.failAt(n, CodeTwoSinks, `give each sink its own "- " line`, "a target with %d sinks", len(o.values))
		return nil
	}
	switch {
	case o.has("kafka"):
		return readKafka(d, o.values["kafka"])
	case o.has("central"):
		return readCentral(d, o.values["central"])
	default:
		return readRedis(d, o.values["redis"])
	}
}

// besideSink reports keys that were to stand below an empty kafka, redis or central, and stand beside it.
func (d *document) besideSink(n ast.Node, sinks []string) bool {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return false
	}
	sink := ""
	for _, p := range m.Values {
		key := p.Key.GetToken().Value
		_, empty := p.Value.(*ast.NullNode)
		switch known := contains(sinks, key); {
		case known && empty:
			sink = key
		case !known && sink != "":
			_, col := place(p.Key)
			d.failAt(p.Key, CodeUnknownKey, fmt.Sprintf("begin it in column %d, further than %s", col+2, sink), "%q stands beside %q, not below it", key, sink)
			return true
		}
	}
	return false
}

func readKafka(d *document, n ast.Node) *targetDef {
	o, ok := d.object(n, `"kafka"`, "topic", "key")
	if !ok {
		return nil
	}
	t := &targetDef{sink: SinkKafka, node: n, key: o.expr("key")}
	return t.readTopic(o)
}

func (t *targetDef) readTopic(o *object) *targetDef {
	if !o.has("topic") {
		o.missing("topic", "for example topic: vehicle.telemetry")
		return nil
	}
	var ok bool
	if t.topic, ok = o.text("topic"); !ok {
		return nil
	}
	return t
}

func readCentral(d *document, n ast.Node) *targetDef {
	o, ok := d.object(n, `"central"`, "lane", "topic", "key")
	if !ok {
		return nil
	}
	t := &targetDef{sink: SinkCentral, node: n, key: o.expr("key"), lane: "p1"}
	s, ok := o.text("lane")
	switch {
	case !ok && !o.has("lane"):
		o.missing("lane", "write lane: p0 (alarms), p1 (normal) or p2 (bulk)")
	case ok && !contains([]string{"p0", "p1", "p2"}, s.value):
		d.fail(s.line, s.col, CodeBadLane, "write p0 (alarms), p1 (normal) or p2 (bulk)", "%q is not a lane", s.value)
	case ok:
		t.lane = s.value
	}
	return t.readTopic(o)
}

func (r *ruleDef) readOnError(n ast.Node) {
	o, ok := r.doc.object(n, `"on_error"`, "kafka")
	if !ok {
		return
	}
	if !o.has("kafka") {
		o.missing("kafka", "for example on_error: {kafka: {topic: vehicle.rule-errors}}")
		return
	}
	k, ok := r.doc.object(o.values["kafka"], `"kafka"`, "topic")
	if !ok {
		return
	}
	t := &targetDef{sink: SinkKafka, node: n}
	r.onError = t.readTopic(k)
}

// redisShape says which keys an operation takes beside its own.
type redisShape struct {
	key     string // the key that names the operation
	kind    RedisKind
	options []string
	needs   string // at least one of these, separated by blanks
	example string // of what it needs
}

var redisShapes = []redisShape{
	{"hash", RedisHash, []string{"set", "fields", "newer_than", "ttl"}, "set fields", "for example fields: payload, or set: {soc: payload.soc}"},
	{"string", RedisString, []string{"value", "ttl"}, "", ""},
	{"stream", RedisStream, []string{"set", "fields", "max_len", "ttl"}, "", ""},
	{"set_add", RedisSetAdd, []string{"member", "ttl"}, "", ""},
	{"set_remove", RedisSetRemove, []string{"member"}, "", ""},
	{"geo", RedisGeo, []string{"lon", "lat", "member", "ttl"}, "lon", "for example lon: payload.lon, lat: payload.lat"},
	{"publish", RedisPublish, []string{"value"}, "", ""},
	{"expire", RedisExpire, []string{"ttl"}, "ttl", "for example ttl: 1h"},
	{"delete", RedisDelete, nil, "", ""},
}

var redisKeys = []string{
	"hash", "string", "stream", "set_add", "set_remove", "geo", "publish", "expire", "delete",
	"set", "fields", "newer_than", "value", "member", "lon", "lat", "max_len", "ttl",
}

func readRedis(d *document, n ast.Node) *targetDef {
	o, ok := d.object(n, `"redis"`, redisKeys...)
	if !ok {
		return nil
	}
	shape, ok := o.redisShape()
	if !ok {
		return nil
	}
	t := &targetDef{sink: SinkRedis, node: n, redis: &redisDef{kind: shape.kind}}
	rd := t.redis
	if rd.key, ok = o.text(shape.key); !ok {
		return nil
	}
	rd.fields, rd.member, rd.value = o.expr("fields"), o.expr("member"), o.expr("value")
	rd.lon, rd.lat = o.expr("lon"), o.expr("lat")
	rd.ttl, _ = o.duration("ttl")
	rd.maxLen, _ = o.integer("max_len", 1, 100_000_000)
	if n, ok := o.values["set"]; ok {
		rd.set = d.value(n, `"set"`, 0)
		if rd.set != nil && (rd.set.expr != nil || rd.set.isList || len(rd.set.items) == 0) {
			d.failAt(n, CodeWrongType, "for example set: {soc: payload.soc}", `"set" must be a mapping of fields to values`)
			return nil
		}
	}
	if s, ok := o.text("newer_than"); ok {
		rd.newerThan = s.value
		if s.value == "" || len(s.value) > 64 {
			d.fail(s.line, s.col, CodeBadName, "write the name of the hash field that keeps the time: _at", "%q is not a field name", s.value)
		}
	}
	return t
}

// redisShape finds the one operation that the keys name and checks the others against it.
func (o *object) redisShape() (redisShape, bool) {
	var found []redisShape
	var names []string
	for _, s := range redisShapes {
		names = append(names, s.key)
		if o.has(s.key) {
			found = append(found, s)
		}
	}
	if len(found) == 0 && o.odd {
		return redisShape{}, false // reported: the unknown key was to be the operation
	}
	if len(found) != 1 {
		o.d.failAt(o.node, CodeTwoSinks, "write one of: "+strings.Join(names, ", "), "a redis target has exactly one operation, this has %d", len(found))
		return redisShape{}, false
	}
	s, ok := found[0], true
	for key, at := range o.keys {
		if key != s.key && !contains(s.options, key) {
			o.d.fail(at.line, at.col, CodeRedisOption, "beside "+s.key+" there may be: "+strings.Join(s.options, ", "), "%q has no meaning for %q", key, s.key)
			ok = false
		}
	}
	need := strings.Fields(s.needs)
	if len(need) > 0 && !o.has(need[0]) && !o.has(need[len(need)-1]) {
		ok = false
		if o.meant[need[0]] || o.meant[need[len(need)-1]] {
			return s, ok
		}
		o.d.failAt(o.node, CodeMissing, s.example, "%q needs %s", s.key, strings.Join(need, " or "))
	}
	if s.kind == RedisGeo && o.has("lon") != o.has("lat") {
		o.d.failAt(o.node, CodeMissing, "for example lon: payload.lon, lat: payload.lat", "%s", fmt.Sprintf("%q needs lon and lat", s.key))
		ok = false
	}
	return s, ok
}

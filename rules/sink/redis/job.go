package redis

import (
	"strconv"
	"sync"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// maxKept is the largest buffer of a job that is reused, in bytes.
const maxKept = 16 << 10

// job is a message in flight: its ticket and its commands. Thousands wait at a time. Their arguments are therefore
// stored compactly, and only the worker that sends them converts them for go-redis. Jobs are pooled: a message
// allocates nothing here except while the pool grows.
type job struct {
	ticket sink.Ticket
	vin    string
	// name is the command's name; a script's hash and number of keys precede the key.
	name   any
	script bool
	key    string
	// buf holds the arguments after the key, ends where each one ends.
	buf  []byte
	ends []uint32
	// ttl is the time to live that a second command sets, in ms; 0 for none.
	ttl int64
}

type jobs struct{ pool sync.Pool }

func (p *jobs) get() *job {
	if j, ok := p.pool.Get().(*job); ok {
		return j
	}
	return &job{}
}

// put returns an unreferenced job to the pool.
func (p *jobs) put(j *job) {
	if cap(j.buf) <= maxKept && cap(j.ends) <= maxKept/4 {
		*j = job{buf: j.buf[:0], ends: j.ends[:0]}
		p.pool.Put(j)
	}
}

// command describes how an operation is sent.
type command struct {
	name any
	// lives means that a second command sets the key's time to live.
	lives bool
	args  func(j *job, o *op.RedisOp)
}

// commands maps kinds of operations to commands.
var commands = [op.RedisKinds]command{
	op.RedisHash:      {"hset", true, (*job).hash},
	op.RedisString:    {"set", false, (*job).set},
	op.RedisStream:    {"xadd", true, (*job).stream},
	op.RedisSetAdd:    {"sadd", true, (*job).member},
	op.RedisSetRemove: {"srem", false, (*job).member},
	op.RedisGeo:       {"geoadd", true, (*job).geo},
	op.RedisPublish:   {"publish", false, (*job).value},
	op.RedisExpire:    {"pexpire", false, (*job).ttlArg},
	op.RedisDelete:    {"del", false, func(*job, *op.RedisOp) {}},
}

// build copies an operation into the job; false for an unknown one.
func (j *job) build(o *op.RedisOp) bool {
	if int(o.Kind) >= len(commands) || commands[o.Kind].args == nil {
		return false
	}
	c := &commands[o.Kind]
	j.key, j.name = o.Key, c.name
	if c.lives {
		j.ttl = o.TTL.Milliseconds()
	}
	c.args(j, o)
	return true
}

func (j *job) hash(o *op.RedisOp) {
	if o.NewerThan != "" {
		j.newer(o)
		return
	}
	j.fields(o)
}

func (j *job) set(o *op.RedisOp) {
	j.bytes(o.Value)
	if o.TTL > 0 {
		j.text("px")
		j.ttlArg(o)
	}
}

func (j *job) stream(o *op.RedisOp) {
	if o.MaxLen > 0 {
		j.text("maxlen")
		j.text("~")
		j.end(strconv.AppendInt(j.buf, o.MaxLen, 10))
	}
	j.text("*")
	j.fields(o)
}

func (j *job) geo(o *op.RedisOp) {
	j.end(strconv.AppendFloat(j.buf, o.Lon, 'f', -1, 64))
	j.end(strconv.AppendFloat(j.buf, o.Lat, 'f', -1, 64))
	j.bytes(o.Member)
}

func (j *job) member(o *op.RedisOp) { j.bytes(o.Member) }
func (j *job) value(o *op.RedisOp)  { j.bytes(o.Value) }
func (j *job) ttlArg(o *op.RedisOp) { j.end(strconv.AppendInt(j.buf, o.TTL.Milliseconds(), 10)) }

// newer appends the arguments of newerScript, which sets the key's time to live itself.
func (j *job) newer(o *op.RedisOp) {
	j.name, j.script, j.ttl = "evalsha", true, 0
	j.text(o.NewerThan)
	j.end(message.AppendTime(j.buf, o.At))
	j.end(append(append(j.buf, o.NewerThan...), seqSuffix...))
	j.end(strconv.AppendUint(j.buf, o.Seq, 10))
	j.ttlArg(o)
	j.end(message.AppendTime(j.buf, o.Believed))
	own := byte('0')
	if o.OwnTime {
		own = '1'
	}
	j.end(append(j.buf, own))
	j.fields(o)
}

func (j *job) fields(o *op.RedisOp) {
	for i := range o.Fields {
		j.text(o.Fields[i].Name)
		j.bytes(o.Fields[i].Value)
	}
}

func (j *job) text(s string)  { j.end(append(j.buf, s...)) }
func (j *job) bytes(b []byte) { j.end(append(j.buf, b...)) }

// end sets buf after another argument was appended to it.
func (j *job) end(buf []byte) {
	j.buf = buf
	j.ends = append(j.ends, uint32(len(buf))) //nolint:gosec // bounded by what rules render, a few MB
}

// arguments is the memory for one pipeline's arguments.
type arguments struct {
	sha   any // the script's hash
	args  []any
	texts []text
}

// text is an argument sent unchanged. A pointer to one converts to an interface without an allocation, unlike a string
// or slice.
type text []byte

// MarshalBinary implements encoding.BinaryMarshaler for go-redis.
func (t *text) MarshalBinary() ([]byte, error) { return *t, nil }

func (a *arguments) reset() { a.args, a.texts = a.args[:0], a.texts[:0] }

// first returns the arguments of a job's operation, valid until reset. When the memory grows and moves, earlier
// arguments stay valid.
func (a *arguments) first(j *job) []any {
	from := len(a.args)
	a.args = append(a.args, j.name)
	if j.script {
		a.args = append(a.args, a.sha, "1")
	}
	a.args = append(a.args, &j.key) // go-redis finds the cluster's node by it
	at := uint32(0)
	for _, end := range j.ends {
		a.texts = append(a.texts, j.buf[at:end:end])
		a.args = append(a.args, &a.texts[len(a.texts)-1])
		at = end
	}
	return a.args[from:len(a.args):len(a.args)]
}

// second returns the arguments of the command that sets the key's time to live; none if there is no such command.
func (a *arguments) second(j *job) []any {
	if j.ttl <= 0 {
		return nil
	}
	from := len(a.args)
	a.args = append(a.args, "pexpire", &j.key, &j.ttl)
	return a.args[from:len(a.args):len(a.args)]
}

package redis

import (
	"strconv"
	"sync"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// maxKept is the largest memory of a job that is kept for another message, in bytes.
const maxKept = 16 << 10

// job is one message under way: its ticket and its commands. Thousands wait at a time, so their arguments stand close
// together, and only the worker that is about to send makes of them what go-redis wants. Jobs are used again and
// again: a message costs no allocation here but while the pool grows.
type job struct {
	ticket sink.Ticket
	vin    string
	// name is the command's; a script's name and number of keys stand between it and the key.
	name   any
	script bool
	key    string
	// buf holds the arguments behind the key, and ends where each one ends.
	buf  []byte
	ends []uint32
	// ttl is the life time that a second command gives the key, in ms; 0 for none.
	ttl int64
}

// jobs is a pool of them.
type jobs struct{ pool sync.Pool }

func (p *jobs) get() *job {
	if j, ok := p.pool.Get().(*job); ok {
		return j
	}
	return &job{}
}

// put takes a job back that nothing refers to any more.
func (p *jobs) put(j *job) {
	if cap(j.buf) <= maxKept && cap(j.ends) <= maxKept/4 {
		*j = job{buf: j.buf[:0], ends: j.ends[:0]}
		p.pool.Put(j)
	}
}

// command is how an operation is sent.
type command struct {
	name any
	// lives says that a second command gives the key its life time.
	lives bool
	args  func(j *job, o *op.RedisOp)
}

// commands are those of all operations, by kind.
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

// build copies an operation into the job; false for one that is not known.
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

// newer are the arguments of newerScript, which gives the key its life time itself.
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

// end takes buf with one more argument behind it.
func (j *job) end(buf []byte) {
	j.buf = buf
	j.ends = append(j.ends, uint32(len(buf))) //nolint:gosec // bounded by what rules render, a few MB
}

// arguments is the memory for the arguments of one pipeline.
type arguments struct {
	sha   any // the script's name
	args  []any
	texts []text
}

// text is an argument that is sent as it is. A pointer to one goes into an interface without an allocation, which a
// string or a slice does not.
type text []byte

// MarshalBinary implements encoding.BinaryMarshaler, through which go-redis asks for it.
func (t *text) MarshalBinary() ([]byte, error) { return *t, nil }

func (a *arguments) reset() { a.args, a.texts = a.args[:0], a.texts[:0] }

// first makes the arguments of a job's operation. They hold until reset. While the memory grows and moves, arguments
// made before stay where they are.
func (a *arguments) first(j *job) []any {
	from := len(a.args)
	a.args = append(a.args, j.name)
	if j.script {
		a.args = append(a.args, a.sha, "1")
	}
	a.args = append(a.args, &j.key) // go-redis reads it to find the node of a cluster
	at := uint32(0)
	for _, end := range j.ends {
		a.texts = append(a.texts, j.buf[at:end:end])
		a.args = append(a.args, &a.texts[len(a.texts)-1])
		at = end
	}
	return a.args[from:len(a.args):len(a.args)]
}

// second makes those of the command that gives the key its life time; none when there is no such.
func (a *arguments) second(j *job) []any {
	if j.ttl <= 0 {
		return nil
	}
	from := len(a.args)
	a.args = append(a.args, "pexpire", &j.key, &j.ttl)
	return a.args[from:len(a.args):len(a.args)]
}

package redis

import (
	"strconv"
	"sync"

	"cellgate/rules"
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

// build copies an operation into the job; false for one that is not known.
func (j *job) build(op *rules.RedisOp) bool {
	ttl := op.TTL.Milliseconds()
	j.key, j.ttl = op.Key, ttl
	switch op.Kind {
	case rules.RedisHash:
		if op.NewerThan != "" {
			j.newer(op, ttl)
			return true
		}
		j.name = "hset"
		j.fields(op.Fields)
	case rules.RedisString:
		j.name, j.ttl = "set", 0
		j.bytes(op.Value)
		if ttl > 0 {
			j.text("px")
			j.end(strconv.AppendInt(j.buf, ttl, 10))
		}
	case rules.RedisStream:
		j.name = "xadd"
		if op.MaxLen > 0 {
			j.text("maxlen")
			j.text("~")
			j.end(strconv.AppendInt(j.buf, op.MaxLen, 10))
		}
		j.text("*")
		j.fields(op.Fields)
	case rules.RedisSetAdd:
		j.name = "sadd"
		j.bytes(op.Member)
	case rules.RedisSetRemove:
		j.name, j.ttl = "srem", 0
		j.bytes(op.Member)
	case rules.RedisGeo:
		j.name = "geoadd"
		j.end(strconv.AppendFloat(j.buf, op.Lon, 'f', -1, 64))
		j.end(strconv.AppendFloat(j.buf, op.Lat, 'f', -1, 64))
		j.bytes(op.Member)
	case rules.RedisPublish:
		j.name, j.ttl = "publish", 0
		j.bytes(op.Value)
	case rules.RedisExpire:
		j.name, j.ttl = "pexpire", 0
		j.end(strconv.AppendInt(j.buf, ttl, 10))
	case rules.RedisDelete:
		j.name, j.ttl = "del", 0
	default:
		return false
	}
	return true
}

// newer are the arguments of newerScript, which gives the key its life time itself.
func (j *job) newer(op *rules.RedisOp, ttl int64) {
	j.name, j.script, j.ttl = "evalsha", true, 0
	j.text(op.NewerThan)
	j.end(rules.AppendTime(j.buf, op.At))
	j.end(append(append(j.buf, op.NewerThan...), seqSuffix...))
	j.end(strconv.AppendUint(j.buf, op.Seq, 10))
	j.end(strconv.AppendInt(j.buf, ttl, 10))
	j.end(rules.AppendTime(j.buf, op.Believed))
	own := byte('0')
	if op.OwnTime {
		own = '1'
	}
	j.end(append(j.buf, own))
	j.fields(op.Fields)
}

func (j *job) fields(fs []rules.Field) {
	for i := range fs {
		j.text(fs[i].Name)
		j.bytes(fs[i].Value)
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

package fleet

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// vehicle is one simulated vehicle: its model, its session state, and at most one connection.
//
// Frames reach the socket only under out, which also orders them; in guards what both the reader and a
// publisher touch. Where both are held, out is taken first. The reader never waits for out while it has
// acknowledgements to account for.
type vehicle struct {
	f       *fleet
	vin     string
	index   int
	topics  [2]string // by class
	cache   tls.ClientSessionCache
	backoff time.Duration
	ever    bool          // was connected before
	turn    int           // of the gateways, which was dialled last
	due     time.Duration // of the next telemetry; owned by the scheduler

	out       sync.Mutex
	model     *Model        // guarded by out, as all below
	modelAt   time.Duration // when the model was last advanced
	rnd       *rand.Rand
	telemetry []byte // payload rendered at modelAt; its sequence number is patched
	alarmAt   time.Duration
	deadline  time.Duration // of the last SetWriteDeadline
	seq       uint64        // the last one used

	in     sync.Mutex
	conn   net.Conn // nil unless CONNACK came and the connection lives
	window window
	limit  int // of open messages

	target   atomic.Pointer[string] // broker by redirect; nil: the configured one
	lastSent atomic.Int64           // time.Duration since the fleet's beginning
	seen     seen                   // commands that were answered; owned by the reader
}

func newVehicle(f *fleet, index int, vin string) *vehicle {
	rnd := rand.New(rand.NewPCG(f.o.Seed, uint64(index))) //nolint:gosec // a simulation, and repeatable
	v := &vehicle{
		f: f, vin: vin, index: index, turn: index, rnd: rnd,
		topics: [2]string{"v1/" + vin + "/up/telemetry", "v1/" + vin + "/up/alarm"},
		model:  newModel(f.cycle, f.route, rnd),
		limit:  f.o.Window,
	}
	if f.o.Resume {
		v.cache = tls.NewLRUClientSessionCache(1)
	}
	if f.o.Ledger != nil {
		if last := f.o.Ledger.Last(vin); last > 0 {
			// What was under way when the last run ended may have been journaled without its
			// acknowledgement: its numbers are not used again.
			v.seq = max(v.seq, last+2*maxWindow)
		}
	}
	if f.o.AlarmEvery > 0 {
		v.alarmAt = v.nextAlarm(0)
	}
	return v
}

func (v *vehicle) nextAlarm(now time.Duration) time.Duration {
	return now + time.Duration(v.rnd.ExpFloat64()*float64(v.f.o.AlarmEvery))
}

// renderEvery bounds how often the model moves and telemetry is rendered anew: a faster vehicle repeats
// its last measurement under a new sequence number.
const renderEvery = 100 * time.Millisecond

// payload returns telemetry with the next sequence number. The caller holds out.
func (v *vehicle) payload(now time.Duration) []byte {
	v.seq++
	if age := now - v.modelAt; v.telemetry == nil || age >= renderEvery || v.f.seqWidth == 0 {
		v.model.Advance(min(age, time.Hour).Seconds())
		v.modelAt = now
		v.telemetry = appendTelemetry(v.telemetry[:0], v.seq, v.f.seqWidth, time.Now(), &v.model.State, v.f.o.PayloadBytes)
		return v.telemetry
	}
	patchSeq(v.telemetry, v.seq)
	return v.telemetry
}

// publish sends one telemetry message, and an alarm when one is due. It does nothing, and counts that,
// when the vehicle is not connected or its window is full.
func (v *vehicle) publish(now time.Duration) {
	v.out.Lock()
	defer v.out.Unlock()
	buf := v.f.buffers.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer v.f.buffers.Put(buf)
	conn, b := v.fill((*buf)[:0], 1, now)
	*buf = b
	if conn == nil || len(b) == 0 {
		v.f.stats.skipped.Add(1)
		return
	}
	v.write(conn, b, now)
}

// fill appends up to n telemetry messages, as many as the window admits, and returns the connection to
// write them to. The caller holds out.
func (v *vehicle) fill(dst []byte, n int, now time.Duration) (net.Conn, []byte) {
	v.in.Lock()
	conn, room := v.conn, v.limit-v.window.open()
	v.in.Unlock()
	if conn == nil || v.f.ended.Load() {
		return nil, dst
	}
	n = min(n, room)
	for range n {
		dst = v.frame(dst, classTelemetry, v.payload(now), now)
	}
	if v.alarmAt > 0 && now >= v.alarmAt && n > 0 {
		v.alarmAt = v.nextAlarm(now)
		v.seq++
		v.f.stats.alarms.Add(1)
		payload := appendAlarm(nil, v.seq, time.Now(), &v.model.State, v.rnd)
		dst = v.frame(dst, classAlarm, payload, now)
	}
	return conn, dst
}

// frame appends one message of the last sequence number, and keeps it in the window at QoS 1. The caller
// holds out.
func (v *vehicle) frame(dst []byte, c class, payload []byte, now time.Duration) []byte {
	start := len(dst)
	v.f.stats.sent.Add(1)
	if v.f.o.QoS == 0 {
		dst = appendPublish(dst, v.f.o.Version, 0, v.topics[c], payload)
		v.f.stats.bytes.Add(uint64(len(dst) - start)) //nolint:gosec // positive
		return dst
	}
	v.in.Lock()
	defer v.in.Unlock()
	id := v.window.take()
	dst = appendPublish(dst, v.f.o.Version, id, v.topics[c], payload)
	v.f.stats.bytes.Add(uint64(len(dst) - start)) //nolint:gosec // positive
	v.window.add(slot{id: id, seq: v.seq, sent: now}, dst[start:])
	return dst
}

// send publishes at QoS 1 what is no telemetry: results and fresh tokens. Without a connection it goes
// with the next one.
func (v *vehicle) send(topic string, payload []byte) {
	v.out.Lock()
	defer v.out.Unlock()
	now := v.f.now()
	v.in.Lock()
	id := v.window.take()
	b := appendPublish(nil, v.f.o.Version, id, topic, payload)
	v.window.add(slot{id: id, sent: now}, b)
	conn := v.conn
	v.in.Unlock()
	if conn != nil {
		v.write(conn, b, now)
	}
}

const writeTimeout = 15 * time.Second

// write writes whole frames. An error ends the connection, which the reader notices. The caller holds out.
func (v *vehicle) write(conn net.Conn, b []byte, now time.Duration) {
	if now-v.deadline > writeTimeout/3 {
		v.deadline = now
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // the write tells
	}
	v.lastSent.Store(int64(now))
	if _, err := conn.Write(b); err != nil {
		_ = conn.Close()
	}
}

// ping keeps an otherwise silent connection alive.
func (v *vehicle) ping(now time.Duration) {
	if now-time.Duration(v.lastSent.Load()) < v.f.o.Keepalive/2 || !v.out.TryLock() {
		return
	}
	defer v.out.Unlock()
	v.in.Lock()
	conn := v.conn
	v.in.Unlock()
	if conn != nil {
		v.write(conn, []byte{typePingreq << 4, 0}, now)
	}
}

// open returns how many messages are not acknowledged.
func (v *vehicle) open() int {
	v.in.Lock()
	defer v.in.Unlock()
	return v.window.open()
}

// hangUp says goodbye, so that no will is sent and no reconnect follows.
func (v *vehicle) hangUp() {
	v.in.Lock()
	conn := v.conn
	v.in.Unlock()
	if conn == nil {
		return
	}
	if v.out.TryLock() {
		v.write(conn, []byte{typeDisconnect << 4, 0}, v.f.now())
		v.out.Unlock()
	}
	_ = conn.Close()
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

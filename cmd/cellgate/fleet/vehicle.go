package fleet

import (
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// vehicle is one simulated vehicle: its model, its session state, and at most one connection.
//
// The lock out covers and orders writes to the socket. The lock in guards what the reader and a publisher share. To
// hold both, take out first. The reader never waits for out while it has acknowledgements to count.
type vehicle struct {
	f       *fleet
	vin     string
	index   int
	topics  [2]string // by class
	cache   tls.ClientSessionCache
	backoff time.Duration
	ever    bool          // has been connected before
	turn    int           // index of the gateway dialled last
	due     time.Duration // of the next telemetry; owned by the scheduler

	out       sync.Mutex
	model     *model        // guarded by out, as are the fields below
	modelAt   time.Duration // when the model was last advanced
	rnd       *rand.Rand
	telemetry []byte // payload rendered at modelAt; its sequence number is patched
	alarmAt   time.Duration
	deadline  time.Duration // of the last SetWriteDeadline
	seq       uint64        // last one used

	in     sync.Mutex
	conn   net.Conn // nil unless connected
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
			// Messages under way at the end of the last run may have been journaled without an acknowledgement. Their
			// numbers are not reused.
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

// renderEvery bounds how often the model moves and telemetry is rendered. A faster vehicle repeats its last measurement
// with a new sequence number.
const renderEvery = 100 * time.Millisecond

// payload returns telemetry with the next sequence number. The caller holds out.
func (v *vehicle) payload(now time.Duration) []byte {
	v.seq++
	if age := now - v.modelAt; v.telemetry == nil || age >= renderEvery || v.f.seqWidth == 0 {
		v.model.advance(min(age, time.Hour).Seconds())
		v.modelAt = now
		v.telemetry = appendTelemetry(v.telemetry[:0], v.seq, v.f.seqWidth, time.Now(), &v.model.State, v.f.o.PayloadBytes)
		return v.telemetry
	}
	patchSeq(v.telemetry, v.seq)
	return v.telemetry
}

// publish sends one telemetry message, and an alarm if one is due. When the vehicle is not connected or its window is
// full, it only counts the message as skipped.
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

// frame appends a message with the last sequence number, and at QoS 1 keeps it in the window. The caller holds out.
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

// send publishes results and new tokens at QoS 1. Without a connection they are sent with the next one.
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

// write writes whole frames. An error ends the connection; the reader notices that. The caller holds out.
func (v *vehicle) write(conn net.Conn, b []byte, now time.Duration) {
	if now-v.deadline > writeTimeout/3 {
		v.deadline = now
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // the write reports the error
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

// open returns the number of unacknowledged messages.
func (v *vehicle) open() int {
	v.in.Lock()
	defer v.in.Unlock()
	return v.window.open()
}

// hangUp sends DISCONNECT, so that no will is published and no reconnect follows.
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

package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"cellgate/broker/shared/remote"
)

const (
	connectTimeout = 20 * time.Second
	firstBackoff   = 250 * time.Millisecond
	sessionExpiry  = 3600 // s
	readBuffer     = 512
)

// refusal is a CONNACK or DISCONNECT with an error code.
type refusal struct {
	code byte
	ref  string
}

func (r *refusal) Error() string { return "refused with code " + codeText(r.code) }

// live keeps the vehicle connected until ctx ends.
func (v *vehicle) live(ctx context.Context) {
	for ctx.Err() == nil {
		connected, err := v.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if !connected {
			v.target.Store(nil) // forget a redirect that failed
		}
		v.account(err)
		v.backoff = min(max(v.backoff*2, firstBackoff), v.f.o.ReconnectMax)
		if !remote.Pause(ctx, time.Duration(rand.Int64N(int64(v.backoff)))) { //nolint:gosec // jitter
			return
		}
	}
}

// account counts why a connection or an attempt ended, and follows a redirect.
func (v *vehicle) account(err error) {
	s := v.f.stats
	var r *refusal
	if errors.As(err, &r) {
		s.reason("%s", err)
		if r.ref != "" {
			v.target.Store(&r.ref)
		}
		return
	}
	s.reason("%s", cause(err))
}

// cause returns why a connection ended, without the addresses, which differ between vehicles.
func cause(err error) string {
	for _, known := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.EADDRNOTAVAIL, syscall.EMFILE} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	var netErr net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed by the gateway"
	case errors.Is(err, net.ErrClosed):
		return "connection closed"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// once makes one connection and reads it to its end.
func (v *vehicle) once(ctx context.Context) (connected bool, err error) {
	conn, err := v.connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close() //nolint:errcheck // it ends here whatever happens
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var roamed atomic.Bool
	if v.f.o.Roam > 0 {
		leave := time.AfterFunc(v.f.o.Roam/2+rand.N(v.f.o.Roam), func() { //nolint:gosec // a vehicle's way
			roamed.Store(true)
			_ = conn.Close()
		})
		defer leave.Stop()
	}
	v.f.stats.connected.Add(1)
	err = v.read(conn)
	v.f.stats.connected.Add(-1)
	v.in.Lock()
	v.conn = nil
	v.in.Unlock()
	if ctx.Err() == nil && !roamed.Load() {
		v.f.stats.lost.Add(1)
	}
	return true, err
}

// connect dials, does the handshake and resumes the session. It waits for its turn among the fleet's connects.
func (v *vehicle) connect(ctx context.Context) (net.Conn, error) {
	if err := v.f.admit(ctx); err != nil {
		return nil, err
	}
	defer v.f.release()
	token, err := v.f.o.Token(v.vin)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	begin := time.Now()
	conn, err := v.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	a, err := v.shake(conn, token)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		stop()
		return nil, errors.Join(err, conn.Close())
	}
	v.f.stats.connect.record(v.index, time.Since(begin))
	v.f.stats.connects.Add(1)
	if v.ever {
		v.f.stats.reconnects.Add(1)
	}
	v.ever, v.backoff = true, 0
	v.resume(conn, a)
	return conn, nil
}

func (v *vehicle) dial(ctx context.Context) (net.Conn, error) {
	addr, here := v.f.o.Broker, v.f.o.Broker
	if n := len(v.f.o.Others); n > 0 {
		if v.turn++; v.turn%(n+1) != 0 {
			addr = v.f.o.Others[v.turn%(n+1)-1]
		}
		here = addr // all have one certificate
	}
	if t := v.target.Load(); t != nil {
		addr = *t
	}
	raw, err := v.f.dialer.DialContext(ctx, "tcp", addr)
	if err != nil || v.f.o.TLS == nil {
		return raw, err
	}
	config := v.f.o.TLS
	if v.cache != nil || addr != here {
		config = config.Clone()
		config.ClientSessionCache = v.cache
	}
	if addr != here {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// shake sends CONNECT and reads CONNACK byte by byte, so as not to read beyond it.
func (v *vehicle) shake(conn net.Conn, token string) (ack, error) {
	connect := connectFrame{
		version: v.f.o.Version, client: v.vin, token: token, clean: v.f.o.Clean,
		keepalive: uint16(min(v.f.o.Keepalive/time.Second, 65535)), //nolint:gosec // bounded
	}
	if !v.f.o.Clean {
		connect.expiry = sessionExpiry
	}
	if _, err := conn.Write(connect.append(nil)); err != nil {
		return ack{}, err
	}
	f, err := readFrame(conn)
	if err != nil {
		return ack{}, err
	}
	if f.kind() != typeConnack {
		return ack{}, fmt.Errorf("%w: type %d instead of CONNACK", errFrame, f.kind())
	}
	a, err := parseConnack(f, v.f.o.Version)
	if err != nil {
		return ack{}, err
	}
	if a.code != 0 {
		v.f.stats.refused.Add(1)
		return ack{}, &refusal{a.code, a.serverRef}
	}
	return a, nil
}

// readFrame reads one frame and not beyond it.
func readFrame(r io.Reader) (frame, error) {
	var head [5]byte
	n := 2
	if _, err := io.ReadFull(r, head[:n]); err != nil {
		return frame{}, err
	}
	for head[n-1] >= 0x80 && n < len(head) {
		if _, err := io.ReadFull(r, head[n:n+1]); err != nil {
			return frame{}, err
		}
		n++
	}
	length, _, ok := cutLength(head[1:n])
	if !ok || length > maxInbound {
		return frame{}, fmt.Errorf("%w: remaining length", errFrame)
	}
	body := make([]byte, length)
	_, err := io.ReadFull(r, body)
	return frame{head[0], body}, err
}

// resume subscribes, resends unacknowledged messages, and makes the connection available to publishers.
func (v *vehicle) resume(conn net.Conn, a ack) {
	v.out.Lock()
	defer v.out.Unlock()
	now := v.f.now()
	v.in.Lock()
	v.limit = v.f.o.Window
	if a.receive > 0 {
		v.limit = min(v.limit, int(a.receive))
	}
	b, resent := v.window.resend(nil, a.present, now)
	if !a.present {
		own := "v1/" + v.vin
		b = append(appendSubscribe(nil, v.f.o.Version, v.window.take(), own+"/cmd/#", own+"/sys/#"), b...)
	}
	v.conn = conn
	v.in.Unlock()
	v.f.stats.resent.Add(uint64(resent)) //nolint:gosec // positive
	v.deadline = -writeTimeout
	if v.f.o.Saturate && v.f.started.Load() && v.f.o.QoS == 1 {
		_, b = v.fill(b, v.f.o.Window, now)
	}
	if len(b) > 0 {
		v.write(conn, b, now)
	}
}

// received holds the contents of one read.
type received struct {
	acked   []Entry
	latency []time.Duration
	other   []publish
}

// read handles what the gateway sends until the connection ends.
func (v *vehicle) read(conn net.Conn) error {
	buf := make([]byte, readBuffer)
	have := 0
	patience := v.f.o.Keepalive*3/2 + connectTimeout
	var armed time.Duration
	for {
		if now := v.f.now(); now-armed > patience/8 {
			armed = now
			_ = conn.SetReadDeadline(time.Now().Add(patience)) // the read reports the error
		}
		n, err := conn.Read(buf[have:])
		if n > 0 {
			used, ferr := v.handle(conn, buf[:have+n])
			if ferr != nil {
				return ferr
			}
			have = copy(buf, buf[used:have+n])
			if have == len(buf) {
				if len(buf) >= maxInbound {
					return fmt.Errorf("%w: too large", errFrame)
				}
				buf = append(buf, make([]byte, len(buf))...)
			}
		}
		if err != nil {
			return err
		}
	}
}

// handle processes all whole frames in b and returns their size in bytes.
func (v *vehicle) handle(conn net.Conn, b []byte) (int, error) {
	got := v.f.batches.Get().(*received) //nolint:forcetypeassert // the pool holds nothing else
	defer v.f.batches.Put(got)
	got.acked, got.latency, got.other = got.acked[:0], got.latency[:0], got.other[:0]
	used, err := v.sort(b, got)
	v.settle(got)
	if err != nil {
		return used, err
	}
	for _, p := range got.other {
		v.inbound(conn, p)
	}
	if v.f.o.Saturate && len(got.latency) > 0 && v.f.started.Load() {
		v.refill(conn)
	}
	return used, nil
}

// sort separates the frames and marks acknowledgements.
func (v *vehicle) sort(b []byte, got *received) (used int, err error) {
	v.in.Lock()
	defer v.in.Unlock()
	defer v.window.trim()
	now := v.f.now()
	for {
		f, n, err := nextFrame(b[used:])
		if n == 0 || err != nil {
			return used, err
		}
		used += n
		switch f.kind() {
		case typePuback:
			err = v.acknowledgedLocked(f, now, got)
		case typePublish:
			var p publish
			p, err = parsePublish(f, v.f.o.Version)
			p.payload = append([]byte(nil), p.payload...)
			got.other = append(got.other, p)
		case typeDisconnect:
			var a ack
			if a, err = parseDisconnect(f); err == nil {
				err = &refusal{a.code, a.serverRef}
			}
		case typeSuback, typePingresp:
		default:
			err = fmt.Errorf("%w: type %d", errFrame, f.kind())
		}
		if err != nil {
			return used, err
		}
	}
}

func (v *vehicle) acknowledgedLocked(f frame, now time.Duration, got *received) error {
	a, err := parsePuback(f)
	if err != nil {
		return err
	}
	s, ok := v.window.ack(a.id)
	if !ok {
		v.f.stats.reason("acknowledgement of an unknown identifier")
		return nil
	}
	if a.code >= reasonFailure {
		v.f.stats.rejected.Add(1)
		v.f.stats.reason("message refused with code %s", codeText(a.code))
		return nil
	}
	got.latency = append(got.latency, now-s.sent)
	if s.seq > 0 {
		got.acked = append(got.acked, Entry{VIN: v.vin, Seq: s.seq})
	}
	return nil
}

// settle counts acknowledged messages and adds them to the ledger.
func (v *vehicle) settle(got *received) {
	if len(got.latency) > 0 {
		v.f.stats.latency.recordAll(v.index, got.latency)
	}
	if len(got.acked) > 0 {
		v.f.stats.acked.Add(uint64(len(got.acked)))
		if v.f.o.Ledger != nil {
			v.f.o.Ledger.Append(got.acked)
		}
	}
}

// refill publishes as much as the window now admits.
func (v *vehicle) refill(conn net.Conn) {
	v.out.Lock()
	defer v.out.Unlock()
	buf := v.f.buffers.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer v.f.buffers.Put(buf)
	now := v.f.now()
	_, b := v.fill((*buf)[:0], v.f.o.Window, now)
	*buf = b
	if len(b) > 0 {
		v.write(conn, b, now)
	}
}

// notice is the payload of v1/{vin}/sys/reconnect.
type notice struct {
	Endpoint string `json:"endpoint"`
}

// moveTo leaves for another gateway after a jitter, so that a fleet does not arrive at once.
func (v *vehicle) moveTo(conn net.Conn, payload []byte) {
	var n notice
	_ = json.Unmarshal(payload, &n) // without an endpoint the vehicle reconnects to the same gateway
	if n.Endpoint != "" {
		v.target.Store(&n.Endpoint)
	}
	time.AfterFunc(time.Duration(rand.Int64N(int64(2*time.Second))), func() { _ = conn.Close() }) //nolint:gosec // jitter
}

package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/test/mqtt"
)

// Load is a closed-loop QoS 1 load: every connection keeps Inflight PUBLISH unacknowledged.
type Load struct {
	Addr     string
	TLS      *tls.Config // nil: plain TCP
	Conns    int
	Inflight int
	Payload  []byte
	// Payloads are published in turn, each connection starting with another; only Payload when nil.
	Payloads [][]byte
	// Password returns the CONNECT password for a client, none when nil.
	Password func(vin string) string
}

// VIN is the i-th client's identifier.
func VIN(i int) string { return fmt.Sprintf("LBENCH%011d", i) }

// Run publishes for the given time and returns the number of acknowledged messages and the time it took.
func (l Load) Run(ctx context.Context, d time.Duration) (acked int64, took time.Duration, err error) {
	conns := make([]net.Conn, l.Conns)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for i := range conns {
		if conns[i], err = l.connect(ctx, VIN(i)); err != nil {
			return 0, 0, err
		}
	}
	var total atomic.Int64
	errs := make(chan error, l.Conns)
	begin := time.Now()
	end := begin.Add(d)
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() {
			n, err := l.pump(c, i, end)
			total.Add(n)
			if err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	took = time.Since(begin)
	select {
	case err = <-errs:
	default:
	}
	return total.Load(), took, err
}

// connect dials and sends CONNECT (MQTT 3.1.1, clean session, keep-alive 10 minutes).
func (l Load) connect(ctx context.Context, id string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 20 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp", l.Addr)
	if err != nil {
		return nil, err
	}
	if l.TLS != nil {
		c = tls.Client(c, l.TLS)
	}
	o := mqtt.Connect{ID: id, Keepalive: 600}
	if l.Password != nil {
		o.Password = l.Password(id)
	}
	if o.Password != "" {
		o.User = id
	}
	if err := mqtt.New(c, mqtt.V4).Enter(o); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

// publishFrame returns a QoS 1 PUBLISH and the offset of its packet identifier.
func publishFrame(topic string, payload []byte) (b []byte, id int) {
	b = mqtt.Publish{Topic: topic, Payload: string(payload), QoS: 1}.Encode(mqtt.V4)
	return b, len(b) - len(payload) - 2
}

// pump keeps the window full until end and then waits for the remaining acknowledgements.
func (l Load) pump(c net.Conn, i int, end time.Time) (acked int64, err error) {
	vin := VIN(i)
	payloads := l.Payloads
	if payloads == nil {
		payloads = [][]byte{l.Payload}
	}
	frames := make([][]byte, len(payloads))
	at := 0
	for k, p := range payloads {
		frames[k], at = publishFrame("v1/"+vin+"/up/telemetry", p) // all of one length, so at is the same
	}
	batch := make([]byte, 0, len(frames[0])*l.Inflight)
	next := uint16(0)
	send := func(n int) error {
		batch = batch[:0]
		for range n {
			next++
			if next == 0 {
				next = 1
			}
			one := frames[(i+int(next))%len(frames)]
			binary.BigEndian.PutUint16(one[at:], next)
			batch = append(batch, one...)
		}
		_, err := c.Write(batch)
		return err
	}
	if err := send(l.Inflight); err != nil {
		return 0, err
	}
	open := l.Inflight
	r := bufio.NewReaderSize(c, 4*l.Inflight)
	for open > 0 {
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, err := readAcks(r)
		if err != nil {
			return acked, fmt.Errorf("%s with %d unacknowledged: %w", vin, open, err)
		}
		acked, open = acked+int64(n), open-n
		if time.Now().Before(end) {
			if err := send(n); err != nil {
				return acked, err
			}
			open += n
		}
	}
	return acked, nil
}

var errNotPuback = errors.New("not a PUBACK")

// readAcks blocks for one PUBACK and reads all others that have arrived with it.
func readAcks(r *bufio.Reader) (int, error) {
	n := 0
	for n == 0 || r.Buffered() >= 4 {
		b, err := r.Peek(4)
		if err != nil {
			return n, err
		}
		if b[0] != 0x40 || b[1] != 2 {
			return n, fmt.Errorf("%w: % x", errNotPuback, b)
		}
		_, _ = r.Discard(4)
		n++
	}
	return n, nil
}

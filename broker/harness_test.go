package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/journal"
	"cellgate/broker/message"
	"cellgate/broker/session"
	"cellgate/broker/statefile"
	"cellgate/test/logbuf"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const testVIN = "LTEST000000000001"

// harness is a broker on a real journal, session manager and authority.
type harness struct {
	t        testing.TB
	b        *Broker
	dir      string
	journal  *journal.Journal
	sessions *session.Manager
	auth     *auth.Authority
	metrics  *Metrics
	index    *Index
	logs     *logbuf.Buffer
	stop     func() // idempotent; the test's end calls it too
}

// setup changes what a harness is made of.
type setup func(*Options)

type sessionJournal struct{ *journal.Journal }

func (j sessionJournal) Append(recs []message.Record) (uint64, error) {
	return j.Journal.Append(recs, nil)
}

func newHarness(t testing.TB, setups ...setup) *harness {
	t.Helper()
	return openHarness(t, t.TempDir(), setups...)
}

// labKey is the key of the session of a client of the listener "lab".
func labKey(clientID string) string { return message.SessionKey(clientID, "lab", "cellgate/cell-test") }

// openHarness starts a broker on a directory, whose listeners are "tokens" and "lab" (anonymous, all topics), and
// stops it with the test.
func openHarness(t testing.TB, dir string, setups ...setup) *harness {
	t.Helper()
	h := &harness{t: t, dir: dir, metrics: NewMetrics(prometheus.NewRegistry()), index: NewIndex(), logs: &logbuf.Buffer{}}
	log := slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	j, _, err := journal.Open(journal.Options{Dir: filepath.Join(dir, "journal"), SegmentBytes: 4 << 20, Log: log})
	must(t, err)
	h.journal = j
	j.Retain("test", 1)
	db, err := statefile.Open(filepath.Join(dir, "state.db"), statefile.Options{Timeout: time.Second, NoSync: true})
	must(t, err)
	h.sessions, err = session.Open(session.Options{DB: db, Index: h.index, Journal: sessionJournal{j}, Log: log})
	must(t, err)
	h.index.PreferConnected(h.sessions.Connected)
	h.auth, err = auth.Open(auth.Config{
		Dir: filepath.Join(dir, "auth"), Cell: "cell-test",
		Roles: map[string]auth.RolePolicy{"lab": {Publish: []string{"#"}, Subscribe: []string{"#"}, AssignedClientID: true}},
	})
	must(t, err)
	o := Options{
		Journal: j, Sessions: h.sessions, Auth: h.auth, Log: log, Metrics: h.metrics,
		Listeners: []Listener{
			{Name: "tokens", Address: "127.0.0.1:0"},
			{Name: "lab", Address: "127.0.0.1:0", AnonymousRole: "lab"},
			{Name: "cars", Address: "127.0.0.1:0", AnonymousRole: auth.RoleVehicle},
		},
	}
	for _, s := range setups {
		s(&o)
	}
	fan, err := NewFanout(FanoutOptions{Journal: j, Sessions: h.sessions, Log: log})
	must(t, err)
	must(t, fan.Replay(t.Context()))
	fanCtx, stopFan := context.WithCancel(context.Background())
	var fanning sync.WaitGroup
	fanning.Go(func() { _ = fan.Run(fanCtx) })
	h.b, err = New(o)
	must(t, err)
	must(t, h.b.Start(t.Context()))
	h.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testPatience)
		defer cancel()
		if err := h.b.Stop(ctx, 0, ""); err != nil {
			t.Errorf("stop: %v", err)
		}
		stopFan()
		fanning.Wait()
		must(t, h.sessions.Close(ctx))
		must(t, j.Close(ctx))
		must(t, db.Close())
		must(t, h.auth.Close(ctx))
	})
	t.Cleanup(h.stop)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *harness) token(vin string) string {
	h.t.Helper()
	token, _, err := h.auth.Issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle, TTL: time.Hour})
	must(h.t, err)
	return token
}

// rejected is rejected_total of a reason.
func (h *harness) rejected(reason string) float64 {
	return valueOf(h.t, h.metrics.Rejected.WithLabelValues(reason))
}

// valueOf reads a counter or gauge.
func valueOf(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	must(t, m.Write(&out))
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// records reads n records from the journal.
func (h *harness) records(n int) []message.Record {
	h.t.Helper()
	r, err := h.journal.NewReader(1)
	must(h.t, err)
	defer func() { must(h.t, r.Close()) }()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	var out []message.Record
	for len(out) < n {
		batch, err := r.Next(ctx, 0)
		if err != nil {
			h.t.Fatalf("journal has %d records, want %d: %v", len(out), n, err)
		}
		for i := range batch.Records {
			out = append(out, batch.Records[i].Clone())
		}
	}
	return out
}

// client is a raw MQTT client: it sends what it is told and reads frames.
type client struct {
	t       testing.TB
	c       net.Conn
	r       *bufio.Reader
	version byte

	connackProps string // what pitfalls want of it
}

func (h *harness) dial(listener string) *client {
	h.t.Helper()
	c, err := net.Dial("tcp", h.b.Addrs()[listener].String())
	must(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return newClient(h.t, c)
}

func newClient(t testing.TB, c net.Conn) *client {
	return &client{t: t, c: c, r: bufio.NewReader(c), version: frame.Version311}
}

// connect dials and connects; the CONNACK must be 0.
func (h *harness) connect(listener, id string, version byte, o connectOptions) *client {
	h.t.Helper()
	c := h.dial(listener)
	c.version = version
	c.send(connectFrame(id, version, o))
	if code := c.connack(); code != 0 {
		h.t.Fatalf("CONNACK %#x", code)
	}
	return c
}

// connectOptions are the parts of a CONNECT that tests vary.
type connectOptions struct {
	user, password string
	keepSession    bool
	keepalive      uint16
	props          []byte // of MQTT 5
	will           []byte // will properties on 5, topic, payload
	willFlags      byte
}

func connectFrame(id string, version byte, o connectOptions) []byte {
	flags := byte(2)
	if o.keepSession {
		flags = 0
	}
	if o.will != nil {
		flags |= 4 | o.willFlags
	}
	if o.user != "" {
		flags |= 0x80
	}
	if o.password != "" {
		flags |= 0x40
	}
	b := append(text("MQTT"), version, flags)
	b = binary.BigEndian.AppendUint16(b, o.keepalive)
	if version == frame.Version5 {
		b = append(b, propsOf(o.props)...)
	}
	b = append(b, text(id)...)
	b = append(b, o.will...)
	if o.user != "" {
		b = append(b, text(o.user)...)
	}
	if o.password != "" {
		b = append(b, text(o.password)...)
	}
	return packet(0x10, b)
}

// propsOf puts the property length in front.
func propsOf(p []byte) []byte { return packet(0, p)[1:] }

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func packet(first byte, body []byte) []byte {
	b := []byte{first}
	n := len(body)
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(append(b, byte(n)), body...)
}

// publishFrame has, on MQTT 5, the properties that props holds.
func publishFrame(version, qos byte, id uint16, topic, payload string, props ...byte) []byte {
	b := text(topic)
	if qos > 0 {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	if version == frame.Version5 {
		b = append(append(b, byte(len(props))), props...)
	}
	return packet(0x30|qos<<1, append(b, payload...))
}

func subscribeFrame(version byte, id uint16, filter string, qos byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	if version == frame.Version5 {
		b = append(b, 0)
	}
	return packet(0x82, append(append(b, text(filter)...), qos))
}

func (c *client) send(b ...[]byte) {
	c.t.Helper()
	if _, err := c.c.Write(bytes.Join(b, nil)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

const testPatience = 30 * time.Second

// read gives the next frame: first byte and body. io.EOF when the server has closed.
func (c *client) read() (first byte, body []byte, err error) {
	_ = c.c.SetReadDeadline(time.Now().Add(testPatience))
	return c.readFrame()
}

// readFrame is read with the deadline as it is.
func (c *client) readFrame() (first byte, body []byte, err error) {
	if first, err = c.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(c.r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.r, body)
	return first, body, err
}

// expect reads a frame and holds it against first byte and body.
func (c *client) expect(first byte, body ...byte) {
	c.t.Helper()
	got, b, err := c.read()
	if err != nil {
		c.t.Fatalf("got %v, want frame %#x % x", err, first, body)
	}
	if got != first || (body != nil && !bytes.Equal(b, body)) {
		c.t.Fatalf("got frame %#x % x, want %#x % x", got, b, first, body)
	}
}

func (c *client) connack() byte {
	c.t.Helper()
	first, body, err := c.read()
	if err != nil || first != 0x20 || len(body) < 2 {
		c.t.Fatalf("no CONNACK but %#x % x, %v", first, body, err)
	}
	return body[1]
}

// expectClosed reads until the server closes and gives the reason of the DISCONNECT, 0 if there was none.
func (c *client) expectClosed() (reason byte) {
	c.t.Helper()
	for {
		first, body, err := c.read()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			c.t.Fatal("the connection is still open")
		case err != nil:
			return reason
		case first == 0xE0 && len(body) > 0:
			reason = body[0]
		}
	}
}

// stuckJournal tells nobody that anything is durable before gate is closed.
type stuckJournal struct {
	Journal
	gate chan struct{}
}

func (j stuckJournal) Append(recs []message.Record, w journal.Waiter) (uint64, error) {
	if w != nil {
		w = stuckWaiter{w, j.gate}
	}
	return j.Journal.Append(recs, w)
}

type stuckWaiter struct {
	w    journal.Waiter
	gate chan struct{}
}

func (w stuckWaiter) Durable(mark uint64) {
	go func() {
		<-w.gate
		w.w.Durable(mark)
	}()
}

func puback(id uint16) []byte { return []byte{byte(id >> 8), byte(id)} }

func versions(t *testing.T, fn func(t *testing.T, version byte)) {
	t.Helper()
	for _, v := range []byte{frame.Version311, frame.Version5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) {
			t.Parallel()
			fn(t, v)
		})
	}
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testPatience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/journal"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/configs/authority"
	"cellgate/test/check"
	"cellgate/test/mqtt"
	"cellgate/test/options"
	"cellgate/test/parts"

	"github.com/prometheus/client_golang/prometheus"
)

const testVIN = "LTEST000000000001"

// harness is a broker with a real journal, session manager and authority.
type harness struct {
	t        testing.TB
	b        *Broker
	dir      string
	journal  *journal.Journal
	sessions *session.Manager
	auth     *auth.Authority
	metrics  *Metrics
	index    *Index
	logs     *check.Log
	stop     func() // idempotent; also called at the end of the test
}

// setup changes the options of a harness.
type setup func(*Options)

type sessionJournal struct{ *journal.Journal }

func (j sessionJournal) Append(recs []message.Record) (uint64, error) {
	return j.Journal.Append(recs, nil)
}

func newHarness(t testing.TB, setups ...setup) *harness {
	t.Helper()
	return openHarness(t, t.TempDir(), setups...)
}

// labKey returns the session key of a client of the listener "lab".
func labKey(clientID string) string { return message.SessionKey(clientID, "lab", "cellgate/cell-test") }

// completed fills in the options that a test leaves out: the gateway's defaults, without rate limits and admitting
// everybody.
func completed(o Options) Options {
	options.Fill(&o, Options{
		Limits: completeLimits(Limits{}), Ack: func(*message.Record) AckMode { return AckJournal },
		Admit: func(*auth.Identity, string) (byte, string) { return 0, "" }, Shed: func() bool { return false },
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil), Now: time.Now,
	})
	for i := range o.Listeners {
		options.Fill(&o.Listeners[i], Listener{Protocol: protocolMQTT, Path: "/mqtt"})
		if files := o.Listeners[i].TLS; files != nil {
			options.Fill(files, TLS{MinVersion: tls.VersionTLS12, ClientAuth: "none"})
		}
	}
	return o
}

func completeLimits(l Limits) Limits {
	c := configs.Default()
	c.Limits.ConnectRate, c.Limits.MessagesPerSecond, c.Limits.BytesPerSecond = 0, 0, 0
	options.Fill(&l, c.Limits, c.Uplink)
	return l
}

// reload applies limits and files, with the gateway's defaults for missing values.
func (h *harness) reload(l Limits, files map[string]TLS) error {
	for name, t := range files {
		options.Fill(&t, TLS{MinVersion: tls.VersionTLS12, ClientAuth: "none"})
		files[name] = t
	}
	return h.b.Reload(completeLimits(l), files)
}

// sessionOptions returns the gateway's options.
func sessionOptions(db *statefile.DB, x *Index, j session.Journal) session.Options {
	o := session.Options{
		DB: db, Index: x, Journal: j, Issuer: "cellgate/cell-test", Log: slog.New(slog.DiscardHandler), Metrics: session.NewMetrics(nil),
		Now: time.Now, Wall: time.Now, DiskShort: func() bool { return false }, Rejected: func(string) {},
		CommitInterval: configs.SessionCommitInterval,
	}
	c := configs.Default()
	options.Fill(&o.Bounds, c.Sessions, c.Limits, session.Bounds{MaxTotalBytes: configs.MaxTotalQueuedBytes})
	return o
}

// authConfig returns the gateway's configuration.
func authConfig(dir string) auth.Config {
	c := authority.Config(configs.Default())
	c.Dir, c.Cell, c.Issuer = dir, "cell-test", "cellgate/cell-test"
	return c
}

// openHarness starts a broker on a directory, with the listeners "tokens" and "lab" (anonymous, all topics), and stops
// it at the end of the test.
func openHarness(t testing.TB, dir string, setups ...setup) *harness {
	t.Helper()
	h := &harness{t: t, dir: dir, metrics: NewMetrics(prometheus.NewRegistry()), index: NewIndex(), logs: &check.Log{}}
	log := slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	jo := parts.Journal(filepath.Join(dir, "journal"))
	jo.SegmentBytes, jo.BufferBytes, jo.Log = 4<<20, 4<<20, log
	j, _, err := journal.Open(jo)
	check.OK(t, err)
	h.journal = j
	j.Retain("test", 1)
	db, err := statefile.Open(filepath.Join(dir, "state.db"), statefile.Options{Timeout: time.Second, Sync: statefile.SyncNever})
	check.OK(t, err)
	so := sessionOptions(db, h.index, sessionJournal{j})
	so.Log = log
	h.sessions, err = session.Open(so)
	check.OK(t, err)
	h.index.PreferConnected(h.sessions.Connected)
	ao := authConfig(filepath.Join(dir, "auth"))
	ao.Roles = map[string]auth.RolePolicy{"lab": {Publish: []string{"#"}, Subscribe: []string{"#"}, AssignedClientID: true}}
	h.auth, err = auth.Open(ao)
	check.OK(t, err)
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
	fan, err := NewFanout(FanoutOptions{Journal: j, Sessions: h.sessions, Log: log, Metrics: NewTailMetrics(nil, "fanout")})
	check.OK(t, err)
	check.OK(t, fan.Replay(t.Context()))
	fanCtx, stopFan := context.WithCancel(context.Background())
	var fanning sync.WaitGroup
	fanning.Go(func() { _ = fan.Run(fanCtx) })
	h.b, err = New(completed(o))
	check.OK(t, err)
	check.OK(t, h.b.Start(t.Context()))
	h.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testPatience)
		defer cancel()
		if err := h.b.Stop(ctx, 0, ""); err != nil {
			t.Errorf("stop: %v", err)
		}
		stopFan()
		fanning.Wait()
		check.OK(t, h.sessions.Close(ctx))
		check.OK(t, j.Close(ctx))
		check.OK(t, db.Close())
		check.OK(t, h.auth.Close(ctx))
	})
	t.Cleanup(h.stop)
	return h
}

func (h *harness) token(vin string) string {
	h.t.Helper()
	token, _, err := h.auth.Issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle, TTL: time.Hour})
	check.OK(h.t, err)
	return token
}

// rejected returns rejected_total of a reason.
func (h *harness) rejected(reason string) float64 {
	return testutil.ToFloat64(h.metrics.Rejected.WithLabelValues(reason))
}

// records reads n records from the journal.
func (h *harness) records(n int) []message.Record {
	h.t.Helper()
	r, err := h.journal.NewReader(1)
	check.OK(h.t, err)
	defer func() { check.OK(h.t, r.Close()) }()
	ctx, cancel := context.WithTimeout(h.t.Context(), testPatience)
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

// client is a scripted MQTT client: it sends and reads frames.
type client = mqtt.T

// dial opens a connection without a CONNECT.
func (h *harness) dial(listener string) *client {
	h.t.Helper()
	return mqtt.DialT(h.t, h.b.Addrs()[listener].String(), mqtt.V4, nil)
}

// connect dials and connects. The CONNACK must be 0.
func (h *harness) connect(listener, id string, version byte, o mqtt.Connect) *client {
	h.t.Helper()
	c := h.dial(listener)
	c.Version = version
	o.ID = id
	c.Open(o)
	return c
}

func connectFrame(id string, version byte, o mqtt.Connect) []byte {
	o.ID, o.Version = id, version
	return o.Encode()
}

// publishFrame encodes a PUBLISH, with the properties props on MQTT 5.
func publishFrame(version, qos byte, id uint16, topic, payload string, props ...byte) []byte {
	return mqtt.Publish{Topic: topic, Payload: payload, QoS: qos, ID: id, Props: [][]byte{props}}.Encode(version)
}

func subscribeFrame(version byte, id uint16, filter string, qos byte) []byte {
	return mqtt.Subscribe(version, id, nil, mqtt.Filter(filter, qos))
}

const testPatience = mqtt.Patience

// stuckJournal notifies no waiter before gate is closed.
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

package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/test/check"
	"cellgate/test/mqtt"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"
)

func tlsListener(ca *testCA, change ...func(*TLS)) setup {
	return func(o *Options) {
		files := &TLS{Cert: ca.cert, Key: ca.key}
		for _, fn := range change {
			fn(files)
		}
		o.Listeners[2].TLS = files
	}
}

func (h *harness) dialTLS(cfg *tls.Config) (*client, error) {
	h.t.Helper()
	raw, err := net.Dial("tcp", h.b.Addrs()["cars"].String())
	check.OK(h.t, err)
	cfg.InsecureSkipVerify = cfg.RootCAs == nil
	c := tls.Client(raw, cfg)
	_ = raw.SetDeadline(time.Now().Add(testPatience))
	return mqtt.Over(h.t, mqtt.V4, c), c.Handshake()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		h := newHarness(t, tlsListener(newTestCA(t)))
		c, err := h.dialTLS(&tls.Config{MinVersion: version, MaxVersion: version})
		check.OK(t, err)
		topic := "v1/" + testVIN + "/up/telemetry"
		// All in one record: data after the CONNECT must not wait for more bytes.
		c.Send(connectFrame(testVIN, 4, mqtt.Connect{}), publishFrame(4, 1, 1, topic, "x"))
		c.ExpectFrame(0x20, 0, 0)
		c.ExpectFrame(0x40, puback(1)...)
		f := publishFrame(4, 1, 2, topic, "y")
		for _, b := range f { // one record per byte
			c.Send([]byte{b})
		}
		c.ExpectFrame(0x40, puback(2)...)
		c.Send(publishFrame(4, 1, 3, topic, string(make([]byte, 100<<10)))) // several records
		c.ExpectFrame(0x40, puback(3)...)
		c.Send(publishFrame(4, 1, 4, topic, "z"), []byte{0xE0, 0})
		c.ExpectFrame(0x40, puback(4)...)
		if _, _, err := c.ReadFrame(); !errors.Is(err, io.EOF) {
			t.Errorf("no close_notify: %v", err)
		}
		if recs := h.records(4); len(recs) != 4 {
			t.Errorf("%d records", len(recs))
		}
	}
}

func TestTLSVersions(t *testing.T) {
	t.Parallel()
	h := newHarness(t, tlsListener(newTestCA(t), func(o *TLS) { o.MinVersion = tls.VersionTLS13 }))
	if _, err := h.dialTLS(&tls.Config{MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 although the listener asks for 1.3")
	}
	h = newHarness(t, tlsListener(newTestCA(t)))
	if _, err := h.dialTLS(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1")
	}
}

func TestTLSResumption(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	h := newHarness(t, tlsListener(ca))
	cfg := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1), ServerName: "localhost"}
	resumed := func() bool {
		c, err := h.dialTLS(cfg)
		check.OK(t, err)
		c.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
		c.ExpectFrame(0x20, 0, 0) // the ticket arrives before the CONNACK
		return c.Conn.(*tls.Conn).ConnectionState().DidResume
	}
	if resumed() {
		t.Error("resumed from nothing")
	}
	if !resumed() {
		t.Error("not resumed")
	}
	check.OK(t, h.reload(Limits{}, nil)) // ticket keys survive a reload
	if !resumed() {
		t.Error("not resumed after a reload")
	}
}

func TestCertificateReload(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	h := newHarness(t, tlsListener(ca))
	serial := func() int64 {
		c, err := h.dialTLS(&tls.Config{})
		check.OK(t, err)
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	ca.write(t, 2)
	if got := serial(); got != 1 {
		t.Errorf("serial %d before the reload", got)
	}
	check.OK(t, h.reload(Limits{}, nil))
	if got := serial(); got != 2 {
		t.Errorf("serial %d after the reload", got)
	}
	ca.cert, ca.key = ca.key, ca.cert // not a certificate
	ca.write(t, 3)
	ca.cert, ca.key = ca.key, ca.cert
	if err := h.reload(Limits{MaxPacket: 1024}, nil); err == nil {
		t.Error("a broken certificate was taken")
	}
	if got := serial(); got != 2 || h.b.limits.Load().MaxPacket == 1024 {
		t.Error("a reload that failed has changed something")
	}
}

// A reload takes a certificate at a new path. One that cannot be read changes nothing.
func TestCertificatePathReload(t *testing.T) {
	t.Parallel()
	ca, other := newTestCA(t), newTestCA(t)
	h := newHarness(t, tlsListener(ca))
	serial := func() int64 {
		c, err := h.dialTLS(&tls.Config{})
		check.OK(t, err)
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	other.write(t, 7)
	check.OK(t, h.reload(Limits{}, map[string]TLS{"cars": {Cert: other.cert, Key: other.key}}))
	if got := serial(); got != 7 {
		t.Errorf("serial %d after the change of the path", got)
	}
	gone := filepath.Join(t.TempDir(), "gone.crt")
	err := h.reload(Limits{MaxPacket: 1024}, map[string]TLS{"cars": {Cert: gone, Key: other.key}})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "listener cars") {
		t.Errorf("error %v", err)
	}
	err = h.reload(Limits{}, map[string]TLS{"cars": {Cert: other.cert, Key: other.key, ClientAuth: "required", ClientCA: gone}})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "client_ca") {
		t.Errorf("error %v", err)
	}
	other.write(t, 8)
	check.OK(t, h.reload(Limits{}, nil)) // reads the path of the last success
	if got := serial(); got != 8 || h.b.limits.Load().MaxPacket == 1024 {
		t.Errorf("serial %d, or half a reload", got)
	}
}

// The limits announced in CONNACK hold until the connection ends. Later clients get the new ones.
func TestAnnouncedLimitsHold(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.Window, o.Limits.MaxPacket = 4, 2048 })
	old := h.connect("cars", testVIN, 5, mqtt.Connect{})
	check.OK(t, h.reload(Limits{Window: 1, MaxPacket: 512}, nil))
	topic, big := "v1/"+testVIN+"/up/telemetry", strings.Repeat("x", 1500)
	old.Send(publishFrame(5, 1, 1, topic, big, 0x23, 0, 3))
	old.ExpectFrame(0x40, puback(1)...)
	for id := uint16(2); id <= 5; id++ { // four open exchanges
		old.Send(publishFrame(5, 2, id, topic, "x"))
		old.ExpectFrame(0x50, puback(id)...)
	}
	fresh := h.connect("cars", "LTESTEV12TA000009", 5, mqtt.Connect{})
	fresh.Send(publishFrame(5, 1, 1, "v1/LTESTEV12TA000009/up/telemetry", big))
	if reason := fresh.Ended().Reason; reason != frame.ReasonPacketTooLarge {
		t.Errorf("reason 0x%02X", reason)
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca, foreign := newTestCA(t), newTestCA(t)
	h := newHarness(t, tlsListener(ca, func(o *TLS) { o.ClientAuth, o.ClientCA = "required", ca.cert }))
	with := func(ca *testCA) *tls.Config {
		return &tls.Config{
			Certificates:       []tls.Certificate{{Certificate: [][]byte{ca.parsed.Raw}, PrivateKey: ca.private}},
			ClientSessionCache: tls.NewLRUClientSessionCache(1), ServerName: "localhost",
		}
	}
	connects := func(cfg *tls.Config) bool {
		c, err := h.dialTLS(cfg)
		if err != nil {
			return false
		}
		if _, err := c.Conn.Write(connectFrame(testVIN, 4, mqtt.Connect{})); err != nil {
			return false
		}
		first, _, err := c.ReadFrame()
		return err == nil && first == 0x20
	}
	cfg := with(ca)
	if !connects(cfg) {
		t.Error("a certificate of the authority is refused")
	}
	if connects(&tls.Config{}) {
		t.Error("no certificate, and connected")
	}
	if connects(with(foreign)) {
		t.Error("a foreign certificate connected")
	}
	ca.write(t, 2) // a new authority, which a resumed session must not bypass
	check.OK(t, h.reload(Limits{}, nil))
	if connects(cfg) {
		t.Error("a certificate of the authority that was taken away connected")
	}
}

func TestListenerOptions(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for name, l := range map[string]Listener{
		"plain off loopback":     {Name: "x", Address: ":1883"},
		"plain on a name":        {Name: "x", Address: "example.com:1883"},
		"anonymous off loopback": {Name: "x", Address: "0.0.0.0:8883", AnonymousRole: "lab", TLS: &TLS{Cert: "none", Key: "none"}},
		"no port":                {Name: "x", Address: "127.0.0.1"},
		"no certificate":         {Name: "x", Address: ":8883", TLS: &TLS{Cert: "none", Key: "none"}},
		"protocol":               {Name: "x", Address: "127.0.0.1:0", Protocol: "coap"},
	} {
		o := completed(Options{Listeners: []Listener{l}})
		if _, err := h.b.newListener(o.Listeners[0]); err == nil || strings.Contains(err.Error(), "not set") {
			t.Errorf("%s: accepted", name)
		}
	}
	taken := Options{
		Journal: h.journal, Sessions: h.sessions, Auth: h.auth,
		Listeners: []Listener{{Name: "vehicles", Address: h.b.Addrs()["cars"].String()}},
	}
	b, err := New(completed(taken))
	check.OK(t, err)
	if err := b.Start(t.Context()); err == nil || !bytes.Contains([]byte(err.Error()), []byte("listeners: vehicles: address")) {
		t.Errorf("a taken port: %v", err)
	}
}

func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	from := func(prefix string) setup {
		return func(o *Options) {
			o.Listeners[2].ProxyFrom = []netip.Prefix{netip.MustParsePrefix(prefix)}
			o.Limits.ConnectionsPerAddress = 1
		}
	}
	header := func(source string) []byte {
		src, err := net.ResolveTCPAddr("tcp", source)
		check.OK(t, err)
		b, err := proxyproto.HeaderProxyFromAddrs(2, src, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8883}).Format()
		check.OK(t, err)
		return b
	}
	h := newHarness(t, from("127.0.0.0/8"))
	c := h.dial("cars")
	c.Send(header("203.0.113.7:4711"), connectFrame(testVIN, 4, mqtt.Connect{}))
	c.ExpectFrame(0x20, 0, 0)
	for _, conn := range h.b.wheel.all(nil) {
		if got := conn.t.peer.String(); got != "203.0.113.7:4711" {
			t.Errorf("peer %s", got)
		}
	}
	c = h.dial("cars") // the client's address counts, not the load balancer's
	c.Send(header("203.0.113.8:1"), connectFrame("LTEST000000000002", 4, mqtt.Connect{}))
	c.ExpectFrame(0x20, 0, 0)
	c = h.dial("cars")
	c.Send(header("203.0.113.7:4712"), connectFrame("LTEST000000000003", 4, mqtt.Connect{}))
	c.Ended()
	c = h.dial("cars") // no header
	c.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
	c.Ended()
	h = newHarness(t, from("10.0.0.0/8")) // not a load balancer
	c = h.dial("cars")
	c.Send(header("203.0.113.7:4711"), connectFrame(testVIN, 4, mqtt.Connect{}))
	c.Ended()
}

// dialWebSocket opens a WebSocket to the listener cars. It sends before ahead of TLS and HTTP.
func (h *harness) dialWebSocket(cfg *tls.Config, before []byte) (*client, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), testPatience)
	h.t.Cleanup(cancel)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			_, err = c.Write(before)
		}
		return c, err
	}
	scheme := "ws"
	if cfg != nil {
		scheme, cfg.InsecureSkipVerify = "wss", true
	}
	ws, resp, err := websocket.Dial(ctx, scheme+"://"+h.b.Addrs()["cars"].String()+"/mqtt", &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: cfg}},
	})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	return mqtt.Over(h.t, mqtt.V4, websocket.NetConn(ctx, ws, websocket.MessageBinary)), nil
}

func webSocketListener(o *Options) { o.Listeners[2].Protocol = protocolWebSocket }

// TestWebSocketTLS checks that TLS ends once, below HTTP, and that MQTT gets the client's certificate.
func TestWebSocketTLS(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	h := newHarness(t, webSocketListener, tlsListener(ca, func(o *TLS) { o.ClientAuth, o.ClientCA = "optional", ca.cert }))
	for i, cfg := range []*tls.Config{
		{MaxVersion: tls.VersionTLS12},
		{Certificates: []tls.Certificate{{Certificate: [][]byte{ca.parsed.Raw}, PrivateKey: ca.private}}},
	} {
		c, err := h.dialWebSocket(cfg, nil)
		check.OK(t, err)
		c.Send(connectFrame(testVIN, 4, mqtt.Connect{}), publishFrame(4, 1, 1, "v1/"+testVIN+"/up/telemetry", "x"))
		c.ExpectFrame(0x20, 0, 0)
		c.ExpectFrame(0x40, puback(1)...)
		for _, conn := range h.b.wheel.all(nil) {
			if got, want := conn.t.certificate() != nil, i == 1; got != want {
				t.Errorf("connection %d: has a certificate: %v, want %v", i, got, want)
			}
		}
		c.Send([]byte{0xE0, 0})
		c.Ended()
		check.Eventually(t, "gone", func() bool { return h.b.Connections() == 0 })
	}
}

// TestWebSocketProxyProtocol checks that the PROXY header comes first, before TLS and HTTP.
func TestWebSocketProxyProtocol(t *testing.T) {
	t.Parallel()
	header, err := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 4711},
		&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}).Format()
	check.OK(t, err)
	for _, set := range [][]setup{{webSocketListener}, {webSocketListener, tlsListener(newTestCA(t))}} {
		h := newHarness(t, append(set, func(o *Options) {
			o.Listeners[2].ProxyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			o.Limits.ConnectionsPerAddress = 1
		})...)
		var cfg *tls.Config
		if len(set) > 1 {
			cfg = &tls.Config{MinVersion: tls.VersionTLS13}
		}
		c, err := h.dialWebSocket(cfg, header)
		check.OK(t, err)
		c.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
		c.ExpectFrame(0x20, 0, 0)
		for _, conn := range h.b.wheel.all(nil) {
			if got := conn.t.peer.String(); got != "203.0.113.7:4711" {
				t.Errorf("peer %s", got)
			}
		}
		if _, err := h.dialWebSocket(cfg, header); err == nil {
			t.Error("a second connection of the client's address is let in")
		}
		if _, err := h.dialWebSocket(cfg, nil); err == nil {
			t.Error("let in without a header")
		}
		c.Send([]byte{0xE0, 0})
		c.Ended()
		check.Eventually(t, "place given back", func() bool {
			h.b.admission.mu.Lock()
			defer h.b.admission.mu.Unlock()
			return len(h.b.admission.addresses) == 0
		})
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Listeners[1].Protocol = protocolWebSocket })
	url := "ws://" + h.b.Addrs()["lab"].String() + "/mqtt"
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	dial := func() *client {
		ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		check.OK(t, err)
		if resp.Body != nil {
			_ = resp.Body.Close()
		}
		return mqtt.Over(t, mqtt.V5, websocket.NetConn(ctx, ws, websocket.MessageBinary))
	}
	c := dial()
	f := connectFrame("bench", 5, mqtt.Connect{})
	c.Send(f[:5]) // packets and messages need not be aligned (MQTT 5, 6)
	c.Send(f[5:], publishFrame(5, 1, 1, "a/b", "x"))
	first, _, err := c.ReadFrame()
	if err != nil || first != 0x20 {
		t.Fatalf("%#x, %v", first, err)
	}
	c.ExpectFrame(0x40, puback(1)...)
	old := c
	c = dial()
	c.Send(connectFrame("bench", 5, mqtt.Connect{}))
	if code := c.Connack(); code != 0 {
		t.Fatalf("CONNACK %#x", code)
	}
	if reason := old.Ended().Reason; reason != 0x8E {
		t.Errorf("taken over: reason %#x", reason)
	}
	if _, resp, err := websocket.Dial(ctx, url, nil); err == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without the subprotocol: %v", err)
	}
	check.Eventually(t, "one connection", func() bool { return h.b.Connections() == 1 })
}

// TestDisconnectIsNotReset checks clients that send a close_notify after their DISCONNECT and keep reading: their messages
// are acknowledged, and the connection is closed without a reset.
func TestDisconnectIsNotReset(t *testing.T) {
	t.Parallel()
	h := newHarness(t, tlsListener(newTestCA(t)))
	for range 20 {
		c, err := h.dialTLS(&tls.Config{})
		check.OK(t, err)
		c.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
		c.ExpectFrame(0x20, 0, 0)
		c.Send(publishFrame(4, 1, 1, "v1/"+testVIN+"/up/telemetry", "x"), []byte{0xE0, 0})
		check.OK(t, c.Conn.(*tls.Conn).CloseWrite())
		c.ExpectFrame(0x40, puback(1)...)
		if _, _, err := c.ReadFrame(); !errors.Is(err, io.EOF) {
			t.Fatalf("the connection ends with %v, want EOF", err)
		}
	}
}

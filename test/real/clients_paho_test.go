//go:build real

package real

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"

	"cellgate/test/check"
)

func clientTLS(t *testing.T, file string) *tls.Config {
	t.Helper()
	pem := check.Read(t, file)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// serverURL returns the address of a job in the form of both libraries.
func serverURL(j job, address string) *url.URL {
	if j.Transport == "wss" {
		return &url.URL{Scheme: "wss", Host: address, Path: "/mqtt"}
	}
	return &url.URL{Scheme: "tls", Host: address}
}

// lastConn remembers the connection that a library uses, so that a test can cut it.
type lastConn struct{ atomic.Pointer[net.Conn] }

func (l *lastConn) dial(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l.Store(&conn)
	return conn, nil
}

// cut ends it below TLS, as the loss of the network does.
func (l *lastConn) cut() {
	if conn := l.Load(); conn != nil {
		_ = (*conn).(*tls.Conn).NetConn().Close()
	}
}

// auto does a job with autopaho, the part of paho.golang that keeps a connection up.
type auto struct {
	*running
	job
	lastConn
	tls     *tls.Config
	target  chan string // where to connect next; autopaho waits for it
	at      string      // where it is connected
	cancel  func()      // ends autopaho
	leaving atomic.Bool
}

func startAutopaho(t *testing.T, j job) *running {
	t.Helper()
	a := &auto{running: newRunning("autopaho"), job: j, tls: clientTLS(t, j.CA), target: make(chan string, 2)}
	a.target <- j.Address
	config := autopaho.ClientConfig{
		ServerUrls: []*url.URL{serverURL(j, j.Address)}, TlsCfg: a.tls, KeepAlive: 30,
		CleanStartOnInitialConnection: j.Clean, ConnectUsername: j.User, ConnectPassword: []byte(j.Password),
		ReconnectBackoff: func(int) time.Duration { return 0 },
		OnConnectionUp:   func(m *autopaho.ConnectionManager, ack *paho.Connack) { go a.work(t.Context(), m, ack) },
		OnConnectionDown: func() bool { return j.Second != "" },
		ClientConfig: paho.ClientConfig{
			ClientID: j.ClientID,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
				a.record(event{Event: "message", Topic: p.Packet.Topic, Payload: string(p.Packet.Payload), QoS: p.Packet.QoS})
				return true, nil
			}},
			OnServerDisconnect: a.moved,
			OnClientError:      func(error) { a.moved(&paho.Disconnect{}) },
		},
	}
	if !j.Clean {
		config.SessionExpiryInterval = 300
	}
	if j.Will != nil {
		config.WillMessage = &paho.WillMessage{Topic: j.Will.Topic, Payload: []byte(j.Will.Payload), QoS: j.Will.QoS}
	}
	if j.Transport == "tls" {
		config.AttemptConnection = func(ctx context.Context, _ autopaho.ClientConfig, _ *url.URL) (net.Conn, error) {
			return a.connect(ctx)
		}
	}
	return a.start(t, config)
}

func (a *auto) start(t *testing.T, config autopaho.ClientConfig) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	t.Cleanup(cancel)
	config.OnConnectError = func(err error) {
		var no *autopaho.ConnackError
		if errors.As(err, &no) {
			a.record(event{Event: "refused", Code: int(no.ReasonCode)})
		} else {
			a.record(event{Event: "failed", Why: err.Error()})
		}
		cancel()
	}
	a.running.cut = a.lastConn.cut
	a.running.leave = func() {
		a.leaving.Store(true)
		cancel() // autopaho disconnects then
	}
	manager, err := autopaho.NewConnection(ctx, config)
	check.OK(t, err)
	go func() {
		<-manager.Done()
		if a.leaving.Load() {
			a.record(event{Event: "left"})
		}
		a.end()
	}()
	return a.running
}

// connect waits for an address and connects to it.
func (a *auto) connect(ctx context.Context) (net.Conn, error) {
	select {
	case a.at = <-a.target:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	conn, err := a.dial(ctx, a.at, a.tls)
	// paho writes a packet in several pieces, and its pings on another goroutine.
	return packets.NewThreadSafeConn(conn), err
}

// moved is called after the server ended the connection, with its DISCONNECT if there was one.
func (a *auto) moved(d *paho.Disconnect) {
	e := event{Event: "ended", Code: int(d.ReasonCode)}
	next := a.Second
	if d.Properties != nil && d.Properties.ServerReference != "" {
		e.Reference, next = d.Properties.ServerReference, d.Properties.ServerReference
	}
	a.record(e)
	if next == "" || a.Second == "" {
		a.cancel()
		return
	}
	a.target <- next
}

func (a *auto) work(ctx context.Context, m *autopaho.ConnectionManager, ack *paho.Connack) {
	a.record(event{Event: "connected", Code: int(ack.ReasonCode), Present: &ack.SessionPresent, Address: a.at})
	if len(a.Subscribe) > 0 {
		request := &paho.Subscribe{}
		for _, s := range a.Subscribe {
			request.Subscriptions = append(request.Subscriptions, paho.SubscribeOptions{Topic: s.Filter, QoS: s.QoS})
		}
		granted, err := m.Subscribe(ctx, request)
		if granted == nil {
			a.record(event{Event: "failed", Why: err.Error()})
			return
		}
		e := event{Event: "subscribed"}
		for _, code := range granted.Reasons {
			e.Codes = append(e.Codes, int(code))
		}
		a.record(e)
	}
	for _, l := range a.Publish {
		done, err := m.Publish(ctx, &paho.Publish{Topic: l.Topic, Payload: []byte(l.Payload), QoS: l.QoS})
		if err != nil {
			a.record(event{Event: "failed", Why: err.Error()})
			return
		}
		e := event{Event: "published", QoS: l.QoS}
		if done != nil {
			e.Code = int(done.ReasonCode)
		}
		a.record(e)
	}
	if !a.Stay {
		a.leave()
	}
}

// paho3 does a job with paho.mqtt.golang.
type paho3 struct {
	*running
	job
	lastConn
	client  mqtt3.Client
	attempt atomic.Value // address of the present attempt
	back    atomic.Bool  // it was connected before
}

func startPaho3(t *testing.T, j job) *running {
	t.Helper()
	p := &paho3{running: newRunning("paho.mqtt.golang"), job: j}
	config := clientTLS(t, j.CA)
	o := mqtt3.NewClientOptions().AddBroker(serverURL(j, j.Address).String()).SetTLSConfig(config).SetProtocolVersion(4).
		SetClientID(j.ClientID).SetUsername(j.User).SetPassword(j.Password).SetCleanSession(j.Clean).SetKeepAlive(30 * time.Second).
		SetAutoReconnect(j.Second != "").SetConnectRetry(false).SetMaxReconnectInterval(time.Second).
		SetDefaultPublishHandler(func(_ mqtt3.Client, m mqtt3.Message) {
			p.record(event{Event: "message", Topic: m.Topic(), Payload: string(m.Payload()), QoS: m.Qos()})
		}).
		SetConnectionAttemptHandler(func(broker *url.URL, c *tls.Config) *tls.Config {
			p.attempt.Store(broker.Host)
			return c
		}).
		SetOnConnectHandler(func(mqtt3.Client) {
			if p.back.Swap(true) {
				p.work(nil) // the library does not show SESSION PRESENT of a reconnect
			}
		}).
		SetConnectionLostHandler(func(mqtt3.Client, error) {
			p.record(event{Event: "ended"})
			if j.Second == "" {
				p.end()
			}
		})
	if j.Second != "" {
		o.AddBroker(serverURL(j, j.Second).String()) // the library tries them in turn
	}
	if j.Will != nil {
		o.SetWill(j.Will.Topic, j.Will.Payload, j.Will.QoS, false)
	}
	if j.Transport == "tls" {
		o.SetCustomOpenConnectionFn(func(server *url.URL, _ mqtt3.ClientOptions) (net.Conn, error) {
			return p.dial(t.Context(), server.Host, config)
		})
	}
	p.client = mqtt3.NewClient(o)
	p.running.cut = p.lastConn.cut
	p.running.leave = func() {
		p.client.Disconnect(1000)
		p.record(event{Event: "left"})
		p.end()
	}
	t.Cleanup(func() { p.client.Disconnect(0) })
	go p.connect()
	return p.running
}

func (p *paho3) connect() {
	token := p.client.Connect().(*mqtt3.ConnectToken) //nolint:forcetypeassert // what the library documents
	<-token.Done()
	switch {
	case token.Error() == nil:
		present := token.SessionPresent()
		p.work(&present)
	case token.ReturnCode() != packetsErrNetwork:
		p.record(event{Event: "refused", Code: int(token.ReturnCode())})
		p.end()
	default:
		p.record(event{Event: "failed", Why: token.Error().Error()})
	}
}

// packetsErrNetwork is the library's return code when the server sent none.
const packetsErrNetwork = 0xFE

func (p *paho3) work(present *bool) {
	p.record(event{Event: "connected", Present: present, Address: p.attempt.Load().(string)}) //nolint:forcetypeassert // stored above
	if len(p.Subscribe) > 0 {
		filters := map[string]byte{}
		for _, s := range p.Subscribe {
			filters[s.Filter] = s.QoS
		}
		token := p.client.SubscribeMultiple(filters, nil).(*mqtt3.SubscribeToken) //nolint:forcetypeassert // what the library documents
		<-token.Done()
		e := event{Event: "subscribed"}
		for _, s := range p.Subscribe {
			e.Codes = append(e.Codes, int(token.Result()[s.Filter]))
		}
		p.record(e)
	}
	tokens := make([]mqtt3.Token, 0, len(p.Publish))
	for _, l := range p.Publish {
		tokens = append(tokens, p.client.Publish(l.Topic, l.QoS, false, l.Payload))
	}
	for i, token := range tokens {
		<-token.Done()
		if err := token.Error(); err != nil {
			p.record(event{Event: "failed", Why: err.Error()})
			return
		}
		p.record(event{Event: "published", QoS: p.Publish[i].QoS})
	}
	if !p.Stay {
		p.leave()
	}
}

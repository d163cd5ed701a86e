package scenario

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"
	"github.com/redis/go-redis/v9"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Env is a running gateway and everything around it.
type Env struct {
	*harness.Gateway
	Cell, Central *harness.Kafka
	RedisAddr     string
	Redis         *redis.Client
	Operator      string // token with every scope
}

// Start runs a gateway on the given Kafkas and Redis and collects what the scenarios need.
func Start(t *testing.T, cell, central *harness.Kafka, redisAddr string, more ...func(*harness.Options)) *Env {
	t.Helper()
	o := harness.Options{Kafka: cell, Central: central, Redis: redisAddr}
	for _, f := range more {
		f(&o)
	}
	g := harness.StartGateway(t, o)
	client := redis.NewClient(&redis.Options{Addr: redisAddr})
	t.Cleanup(func() { _ = client.Close() })
	return &Env{Gateway: g, Cell: cell, Central: central, RedisAddr: redisAddr, Redis: client, Operator: g.OperatorToken()}
}

const (
	vinAlphabet = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
	vinLength   = 17
)

// NewVIN makes a VIN that no other scenario uses, so that scenarios share topics without meeting.
func NewVIN() string {
	b := []byte("LTEST")
	for len(b) < vinLength {
		b = append(b, vinAlphabet[rand.IntN(len(vinAlphabet))])
	}
	return string(b)
}

// V5 is an MQTT 5 client and what it was sent.
type V5 struct {
	*paho.Client
	Connack  *paho.Connack
	Messages chan *paho.Publish
	Closed   chan *paho.Disconnect // the server's DISCONNECT, or nil for a connection that just ended
}

// DialV5 connects over TLS. A refused CONNECT is an error, with Connack set.
func DialV5(t *testing.T, g *harness.Gateway, clientID, token string, change ...func(*paho.ClientConfig)) (*V5, error) {
	t.Helper()
	dialer := tls.Dialer{Config: g.ClientTLS(), NetDialer: &net.Dialer{Timeout: check.Patience}}
	conn, err := dialer.DialContext(t.Context(), "tcp", g.MQTTS)
	if err != nil {
		return nil, err
	}
	v := &V5{Messages: make(chan *paho.Publish, 64), Closed: make(chan *paho.Disconnect, 1)}
	closed := func(d *paho.Disconnect) {
		select {
		case v.Closed <- d:
		default:
		}
	}
	config := paho.ClientConfig{
		// paho writes a packet in several pieces, and its pings from a goroutine of their own.
		Conn: packets.NewThreadSafeConn(conn), ClientID: clientID, PacketTimeout: 2 * check.Patience, // else 10 s, whatever a context says
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			v.Messages <- r.Packet
			return true, nil
		}},
		OnServerDisconnect: closed,
		OnClientError:      func(error) { closed(nil) },
	}
	for _, c := range change {
		c(&config)
	}
	v.Client = paho.NewClient(config)
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	connect := &paho.Connect{ClientID: clientID, KeepAlive: 60, CleanStart: true}
	if token != "" {
		connect.Username, connect.UsernameFlag = clientID, true
		connect.Password, connect.PasswordFlag = []byte(token), true
	}
	v.Connack, err = v.Connect(ctx, connect)
	if err != nil {
		_ = conn.Close()
		return v, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return v, nil
}

// MustV5 is DialV5 for a client that has to be let in.
func MustV5(t *testing.T, g *harness.Gateway, clientID, token string) *V5 {
	t.Helper()
	v, err := DialV5(t, g, clientID, token)
	if err != nil {
		t.Fatalf("connect %s over MQTT 5: %v", clientID, err)
	}
	return v
}

// Send publishes with QoS 1 and returns the PUBACK's reason code.
func (v *V5) Send(t *testing.T, topic string, payload string) byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	ack, err := v.Publish(ctx, &paho.Publish{QoS: 1, Topic: topic, Payload: []byte(payload)})
	if err != nil && ack == nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
	return ack.ReasonCode
}

// DialV3 connects an MQTT 3.1.1 client over TLS; ended is closed when the connection is lost.
func DialV3(t *testing.T, g *harness.Gateway, clientID, token string) (c mqtt3.Client, ended <-chan struct{}, err error) {
	t.Helper()
	lost := make(chan struct{})
	o := mqtt3.NewClientOptions().AddBroker("ssl://" + g.MQTTS).SetClientID(clientID).SetTLSConfig(g.ClientTLS()).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(check.Patience).
		SetConnectionLostHandler(func(mqtt3.Client, error) { close(lost) })
	if token != "" {
		o.SetUsername(clientID).SetPassword(token)
	}
	c = mqtt3.NewClient(o)
	token3 := c.Connect()
	if !token3.WaitTimeout(2 * check.Patience) {
		return nil, nil, fmt.Errorf("no CONNACK")
	}
	if err := token3.Error(); err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { c.Disconnect(0) })
	return c, lost, nil
}

package broker

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/broker/journal"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
)

// Options are what a Broker is made of.
type Options struct {
	// Journal takes every accepted PUBLISH.
	Journal Journal
	// Sessions keep what outlives a connection, and deliver.
	Sessions *session.Manager
	// Auth decides who a client is and what it may do.
	Auth Authenticator
	// Listeners are the addresses to serve, at least one.
	Listeners []Listener
	// Limits bound everything.
	Limits Limits
	// Ack tells when a PUBLISH is acknowledged.
	Ack func(rec *message.Record) AckMode
	// Settlement is required when Ack ever answers AckKafka.
	Settlement Settlement `zero:"none waits for Kafka"`
	// Admit is asked about every client that has proved who it is, before its session is touched: reason 0
	// admits it; any other is the CONNACK's, with a server reference if there is one.
	Admit func(id *auth.Identity, clientID string) (reason byte, serverReference string)
	// Shed is asked for every PUBLISH of QoS 0: true drops it and counts it, so that room in the journal that is
	// getting short is left for what waits for an acknowledgement. It must be quick.
	Shed func() bool
	// Command takes the commands that services publish: command.Service.Submit.
	Command Command `zero:"commands are journaled like any other PUBLISH"`
	// Epoch is that of the connection that the gateway has of a vehicle, 0 while none is known. It must be quick.
	Epoch func(vin string) uint64
	// Trace is told what happens to messages while somebody looks on.
	Trace *trace.Traces `zero:"nobody does"`
	// Classes are the topic classes that get a label of their own in metrics.
	Classes []string
	// CommandSubscribe subscribes every vehicle to its commands on connect, at QoS 1.
	CommandSubscribe bool

	Log     *slog.Logger
	Metrics *Metrics
	Now     func() time.Time
}

// Command decides on a command and calls answer exactly once, with the reason code of the acknowledgement, when the
// decision is on disk. A client that is not refusable is answered a refusal only where it is to be disconnected for
// it. With an error answer is not called.
type Command func(ctx context.Context, rec *message.Record, from command.Caller, refusable bool, answer func(reason byte)) error

// AckMode tells what an acknowledgement stands behind.
type AckMode uint8

// The modes of uplink.ack; cell.yaml says what each survives.
const (
	// AckJournal acknowledges after the journal's fsync.
	AckJournal AckMode = iota
	// AckKafka acknowledges once every Kafka target that the rules chose has the message, acks=all.
	AckKafka
	// AckMemory acknowledges on receipt.
	AckMemory
)

// Journal is the durable log (*journal.Journal; tests have ones that are slow, full or stuck).
type Journal interface {
	// Append assigns sequences in place and copies the records before it returns. w, if not nil, is told
	// when they are durable.
	Append(recs []message.Record, w journal.Waiter) (last uint64, err error)
	First() uint64
	Last() uint64
	Durable() uint64
	NewReader(from uint64) (*journal.Reader, error)
	WaitDurable(ctx context.Context, seq uint64) error
	WaitRoom(ctx context.Context) error
	Retain(name string, seq uint64)
}

// Settlement tells when the rules' Kafka targets have taken a record.
type Settlement interface {
	// Settled reports whether a record has settled. If not, it calls w.Settled, on another goroutine, when it is worth
	// asking again. It does not block.
	Settled(seq uint64, w SettlementWaiter) bool
}

// SettlementWaiter waits for one record at a time.
type SettlementWaiter interface {
	// Settled does not block on a socket. No lock that Settlement.Settled takes may be held.
	Settled()
	// Gone reports that the connection has ended, so that it need not be told, nor held any longer. It takes no lock.
	Gone() bool
}

// Authenticator is what a connection needs of auth.Authority. Tests have ones that are slow, or live at another time.
type Authenticator interface {
	Verify(token []byte, peer auth.Peer) (auth.Identity, error)
	Anonymous(role, clientID string) (auth.Identity, error)
	Permissions(id auth.Identity) *auth.Permissions
	// WatchEnded calls fn within a second of every change of revocations and keys.
	WatchEnded(fn func(ended func(auth.Identity) error)) (stop func())
	// Ended is asked once more after a connection can be found by fn.
	Ended(id auth.Identity) error
	// Deadline is when a connection with this identity must end; zero never.
	Deadline(id auth.Identity) time.Time
	AuditRefresh(id auth.Identity, peer auth.Peer)
	AuditRefuse(reason string, id auth.Identity, peer auth.Peer)
}

// Protocols of a listener.
const (
	ProtocolMQTT      = "mqtt"
	ProtocolWebSocket = "ws"
)

// Listener is one address to serve.
type Listener struct {
	// Name is for logs, metrics and Addrs.
	Name string
	// Address is host:port. Without TLS it must be a loopback address.
	Address string
	// Protocol is ProtocolMQTT or ProtocolWebSocket.
	Protocol string
	// Path is the HTTP path of a WebSocket listener.
	Path string
	// TLS makes it TLS 1.2 and 1.3.
	TLS *TLS `zero:"plain"`
	// AnonymousRole admits clients without a token, the client identifier as subject. Loopback only.
	AnonymousRole string `zero:"nobody is"`
	// ProxyFrom lists the networks of load balancers. From these every connection must begin with a PROXY
	// protocol v2 header; from anywhere else it is refused. Empty: no PROXY protocol.
	ProxyFrom []netip.Prefix
}

// TLS names the files of a listener. They are read again by Reload.
type TLS struct {
	Cert, Key string
	// ClientCA is a PEM file of the authorities of clients, needed unless ClientAuth is "none".
	ClientCA string `zero:"none"`
	// ClientAuth is "none", "optional" or "required".
	ClientAuth string
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13.
	MinVersion uint16
}

// Limits bound connections and what each of them may do.
type Limits struct {
	// MaxConnections is the most clients at once.
	MaxConnections int
	// ConnectionsPerAddress is the most connections of one address, before the handshake.
	ConnectionsPerAddress int `zero:"no limit"`
	// ConnectRate is how many connections per second are taken, with a burst of as many.
	ConnectRate int `zero:"no limit"`
	// Handshakes is the most connections that have not finished TLS and CONNECT. When it is reached the
	// oldest of them gives way: it is the likeliest never to finish.
	Handshakes int
	// Sockets is how many descriptors there are for clients, connected or not. What is in the handshake
	// takes no more of them than connections leave, but for 64.
	Sockets int `zero:"no limit"`
	// HandshakeTimeout bounds TLS, ConnectTimeout the CONNECT after it.
	HandshakeTimeout time.Duration
	ConnectTimeout   time.Duration
	// MaxConnectPacket bounds a CONNECT.
	MaxConnectPacket int
	// MaxPacket bounds every other packet; MQTT 5 clients are told.
	MaxPacket int
	// MaxTopicLevels bounds the levels of a topic.
	MaxTopicLevels int
	// MaxKeepalive clamps the keep alive, 0 included.
	MaxKeepalive time.Duration
	// Window is the most QoS 1 and 2 messages of a connection that are not acknowledged: the Receive
	// Maximum of MQTT 5; a 3.1.1 client beyond it is not read.
	Window int
	// MessagesPerSecond and BytesPerSecond slow one connection down by not reading. A PINGREQ and
	// every other request counts as a message, a SUBSCRIBE or UNSUBSCRIBE as many as it has filters.
	MessagesPerSecond int   `zero:"no limit"`
	BytesPerSecond    int64 `zero:"no limit"`
	// OutboundBytes bounds a connection's outgoing queue.
	OutboundBytes int
	// ExpiringNotice is how long before its token's end a vehicle is told on v1/{vin}/sys/token-expiring. It
	// holds for tokens that are shown from now on.
	ExpiringNotice time.Duration `zero:"never"`
	// ExpiryJitter spreads the ends of connections whose tokens end together: each ends at most this much before
	// its token, and never after it.
	ExpiryJitter time.Duration `zero:"none"`
	// WriteTimeout ends a connection whose client does not read.
	WriteTimeout time.Duration
}

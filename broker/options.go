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

// Options configures a Broker.
type Options struct {
	// Journal receives every accepted PUBLISH.
	Journal Journal
	// Sessions holds the state that outlives connections, and delivers messages.
	Sessions *session.Manager
	// Auth determines who a client is and what it may do.
	Auth Authenticator
	// Listeners are the addresses to serve, at least one.
	Listeners []Listener
	// Limits bounds all resources.
	Limits Limits
	// Ack returns when to acknowledge a PUBLISH.
	Ack func(rec *message.Record) AckMode
	// Settlement is required if Ack can return AckKafka.
	Settlement Settlement `zero:"none waits for Kafka"`
	// Admit is called for every authenticated client, before its session is touched. Reason 0 admits it. Any other
	// reason is the CONNACK's, with a server reference unless that is empty.
	Admit func(id *auth.Identity, clientID string) (reason byte, serverReference string)
	// Shed is called for every PUBLISH of QoS 0. If it returns true, the message is dropped and counted, which leaves
	// short journal room to messages that are acknowledged. It must not block.
	Shed func() bool
	// Command receives the commands that services publish: command.Service.Submit.
	Command Command `zero:"commands are journaled like any other PUBLISH"`
	// Trace records what happens to messages while an observer is attached.
	Trace *trace.Traces `zero:"nobody does"`
	// Classes are the topic classes with a label of their own in metrics.
	Classes []string
	// CommandSubscribe subscribes every vehicle to its commands on connect, at QoS 1.
	CommandSubscribe bool

	Log     *slog.Logger
	Metrics *Metrics
	Now     func() time.Time
}

// Command decides on a command. It calls answer exactly once, with the reason code and, for a refusal, the reason string of
// the acknowledgement, when the decision is on disk. If refusable is false, it answers a refusal only if the connection is to end. If it returns an
// error, it does not call answer.
type Command func(ctx context.Context, rec *message.Record, from command.Caller, refusable bool, answer func(reason byte, text string)) error

// AckMode says what must have happened before an acknowledgement leaves.
type AckMode uint8

// The modes of uplink.ack; cell.yaml says which failures each survives.
const (
	// AckJournal acknowledges after the journal's fsync.
	AckJournal AckMode = iota
	// AckKafka acknowledges after every Kafka target that the rules chose has the message, with acks=all.
	AckKafka
	// AckMemory acknowledges on receipt.
	AckMemory
)

// Journal is the durable journal (*journal.Journal, or a slow, full or stuck fake in tests).
type Journal interface {
	// Append assigns sequences in place and copies the records before it returns. w, if not nil, is notified when they
	// are durable.
	Append(recs []message.Record, w journal.Waiter) (last uint64, err error)
	First() uint64
	Last() uint64
	Durable() uint64
	NewReader(from uint64) (*journal.Reader, error)
	WaitDurable(ctx context.Context, seq uint64) error
	WaitRoom(ctx context.Context) error
	Retain(name string, seq uint64)
}

// Settlement reports when the rules' Kafka targets have taken a record.
type Settlement interface {
	// Settled reports whether a record has settled. If not, it later calls w.Settled on another goroutine, when it is
	// worth asking again. It does not block.
	Settled(seq uint64, w SettlementWaiter) bool
}

// SettlementWaiter waits for one record at a time.
type SettlementWaiter interface {
	// Settled does not block on a socket. The caller must not hold a lock that Settlement.Settled takes.
	Settled()
	// Gone reports whether the connection has ended: it need not be notified and can be released. It takes no lock.
	Gone() bool
}

// Authenticator is the part of auth.Authority that connections use. Tests have fakes that are slow, or have another
// clock.
type Authenticator interface {
	Verify(token []byte, peer auth.Peer) (auth.Identity, error)
	Anonymous(role, clientID string) (auth.Identity, error)
	Permissions(id auth.Identity) *auth.Permissions
	// WatchEnded calls fn within a second after every change of revocations and keys.
	WatchEnded(fn func(ended func(auth.Identity) error)) (stop func())
	// Ended reports why an identity is no longer valid, or nil. It is called once more after fn can find the
	// connection.
	Ended(id auth.Identity) error
	// Deadline returns when a connection with this identity must end; the zero time means never.
	Deadline(id auth.Identity) time.Time
	AuditRefresh(id auth.Identity, peer auth.Peer)
	AuditRefuse(reason string, id auth.Identity, peer auth.Peer)
}

// Protocols of a listener.
const (
	protocolMQTT      = "mqtt"
	protocolWebSocket = "ws"
)

// Listener is one address to serve.
type Listener struct {
	// Name identifies the listener in logs, metrics and Addrs.
	Name string
	// Address is host:port. Without TLS it must be a loopback address.
	Address string
	// Protocol is mqtt or ws.
	Protocol string
	// Path is the HTTP path of a WebSocket listener.
	Path string
	// TLS enables TLS 1.2 and 1.3.
	TLS *TLS `zero:"plain"`
	// AnonymousRole is the role of clients without a token; their subject is the client identifier. Loopback only.
	AnonymousRole string `zero:"nobody is"`
	// ProxyFrom lists the networks of load balancers. If it is not empty, every connection must come from one of them
	// and begin with a PROXY protocol v2 header.
	ProxyFrom []netip.Prefix
}

// TLS names the files of a listener. Reload reads them again.
type TLS struct {
	Cert, Key string
	// ClientCA is a PEM file of the clients' certificate authorities, required unless ClientAuth is "none".
	ClientCA string `zero:"none"`
	// ClientAuth is "none", "optional" or "required".
	ClientAuth string
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13.
	MinVersion uint16
}

// Limits bounds connections and what each of them may do.
type Limits struct {
	// MaxConnections is the maximum number of connected clients.
	MaxConnections int
	// ConnectionsPerAddress is the maximum number of connections of one address, handshakes included.
	ConnectionsPerAddress int `zero:"no limit"`
	// ConnectRate is the number of connections accepted per second, with a burst of one second's worth.
	ConnectRate int `zero:"no limit"`
	// Handshakes is the maximum number of connections that have not finished TLS and CONNECT. At the limit the oldest
	// one gives way, as the least likely to finish.
	Handshakes int
	// Sockets is the number of descriptors for clients, connected or not. The handshake uses only those that
	// connections leave, but always up to 64.
	Sockets int `zero:"no limit"`
	// HandshakeTimeout bounds TLS, ConnectTimeout the CONNECT after it.
	HandshakeTimeout time.Duration
	ConnectTimeout   time.Duration
	// MaxConnectPacket bounds a CONNECT, in bytes.
	MaxConnectPacket int
	// MaxPacket bounds every other packet, in bytes; CONNACK announces it on MQTT 5.
	MaxPacket int
	// MaxTopicLevels bounds the levels of a topic.
	MaxTopicLevels int
	// MaxKeepalive caps the keep alive; it also replaces 0.
	MaxKeepalive time.Duration
	// Window is the maximum number of unacknowledged QoS 1 and 2 messages of a connection: the Receive Maximum of MQTT
	// 5. A 3.1.1 client at the limit is not read.
	Window int
	// MessagesPerSecond and BytesPerSecond slow a connection down by not reading it. Every request counts as a message,
	// also a PINGREQ; a SUBSCRIBE or UNSUBSCRIBE counts once per filter.
	MessagesPerSecond int   `zero:"no limit"`
	BytesPerSecond    int64 `zero:"no limit"`
	// OutboundBytes bounds a connection's outgoing queue, in bytes.
	OutboundBytes int
	// ExpiringNotice is how long before its token's end a vehicle is notified on v1/{vin}/sys/token-expiring. A change
	// applies to tokens presented afterwards.
	ExpiringNotice time.Duration `zero:"never"`
	// ExpiryJitter spreads the ends of connections whose tokens end together. Each connection ends at most this long
	// before its token, and never after it.
	ExpiryJitter time.Duration `zero:"none"`
	// WriteTimeout bounds one write; then the connection ends, because its client does not read.
	WriteTimeout time.Duration
}

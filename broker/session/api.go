package session

import (
	"errors"
	"log/slog"
	"math"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
)

// MaxExpiry as a session expiry means that the session never expires by itself (MQTT 5, 3.1.2.11.2: an
// interval of 0xFFFFFFFF). Options.MaxExpiry still limits it.
const MaxExpiry = time.Duration(math.MaxInt64)

// maxClientIDBytes is the longest client identifier that can have a session, and maxKeyBytes the longest key of one: it
// is a key of the state file.
const (
	maxClientIDBytes = 1024
	maxKeyBytes      = 4096
)

// Errors of Attach and Deliver, and those that a Delivery's Failed is given.
var (
	// ErrNoSession: the client has no session.
	ErrNoSession = errors.New("no session")
	// ErrNotSubscribed: the client has no subscription that matches the message's topic.
	ErrNotSubscribed = errors.New("not subscribed")
	// ErrNotConnected: the subscription's QoS is 0 and the client is not connected, so the message cannot
	// be kept for it.
	ErrNotConnected = errors.New("not connected")
	// ErrQueueFull: a bound of the client's queue, or of all queues together, is reached.
	ErrQueueFull = errors.New("queue full")
	// ErrExpired: the message expired before it was sent.
	ErrExpired = errors.New("message expired")
	// ErrTooLarge: the message exceeds the Maximum Packet Size that the client announced.
	ErrTooLarge = errors.New("message exceeds the client's maximum packet size")
	// ErrNotPermitted: the client's permissions do not allow it to receive the message.
	ErrNotPermitted = errors.New("not permitted")
	// ErrSessionEnded: the session ended (expiry, clean start, purge) before the message was acknowledged.
	ErrSessionEnded = errors.New("session ended")
	// ErrWillNotPermitted: the will's topic is not one that the client may publish to.
	ErrWillNotPermitted = errors.New("will topic not permitted")
	// ErrWillTopic: the will's topic has more levels than MaxTopicLevels.
	ErrWillTopic = errors.New("will topic has too many levels")
	// ErrSessions: the owner has as many sessions as it may have.
	ErrSessions = errors.New("the subject has as many sessions as it may have")
	// ErrRetained: the publisher's share of retained messages, or the room for all of them, is used up.
	ErrRetained = errors.New("no room for another retained message")
	// ErrTakeover wraps the context's error when an older connection of the same client identifier did not
	// end in time.
	ErrTakeover = errors.New("the older connection has not ended")
	// ErrClientID: the client identifier is empty or longer than maxClientIDBytes, or the key than maxKeyBytes.
	ErrClientID = errors.New("client identifier empty or too long")
	// ErrClosed: the manager is closed.
	ErrClosed = errors.New("session manager closed")
)

// Options configure a Manager.
type Options struct {
	// DB is the gateway's state file; the manager uses the bucket "mqtt" and leaves the file open.
	DB DB
	// Index finds the subscribers of a topic and keeps retained messages.
	Index Index
	// Journal takes wills and tells where it stands.
	Journal Journal
	// Issuer is the cell's own: sessions of services that were stored before they told issuers apart are taken for its.
	Issuer string
	// Log gets state changes worth an operator's attention.
	Log     *slog.Logger
	Metrics *Metrics
	// Now is the time that has passed, which no setting of a clock moves (clock.Clock.Now): sessions, wills and messages
	// end by it. Wall is the wall clock, of stamps and of the ends of tokens.
	Now  func() time.Time
	Wall func() time.Time
	// DiskShort reports that the disk has no more than what is kept free for commands: nothing more is queued for
	// subscribers then that would have to be written. It must be quick.
	DiskShort func() bool
	// Rejected is told the reason of every refusal that counts in rejected_total.
	Rejected func(reason string)
	// Cell has the vehicles' sessions beside this gateway.
	Cell Cell `zero:"this is the only gateway"`

	// Bounds can be replaced while the manager runs: see Manager.SetBounds.
	Bounds
	// CommitInterval is how long a change that nobody waits for may stay out of the state file: queue
	// contents that the journal still has, removals, QoS 2 identifiers, the fan-out position.
	CommitInterval time.Duration
}

// Bounds are the limits of sessions.
type Bounds struct {
	// MaxQueuedMessages bounds the messages of one session, in flight and waiting.
	MaxQueuedMessages int
	// MaxQueuedBytes bounds their topics, payloads and properties per session.
	MaxQueuedBytes int64
	// MaxTotalBytes bounds the same over all sessions. A quarter of it is for messages that are directed to one
	// client, commands: what subscriptions bring never takes that.
	MaxTotalBytes int64
	// MaxPerSubject, MaxSubscriptionsPerSubject and MaxQueuedBytesPerSubject bound what one owner has in all its sessions
	// together: sessions, filters (one counts once for every eight levels begun), and queued bytes. The bytes are also
	// never more than what is left for all others.
	MaxPerSubject              int
	MaxSubscriptionsPerSubject int
	MaxQueuedBytesPerSubject   int64
	// MaxTopicLevels bounds the levels of topics and filters.
	MaxTopicLevels int
	// Overflow tells which message gives way when a session's queue is full.
	Overflow Overflow `zero:"the newest"`
	// MaxSubscriptions bounds the filters of one session, which together have at most 256 KiB.
	MaxSubscriptions int
	// MaxInflight bounds the unacknowledged messages towards one client, whatever Receive Maximum it
	// announces.
	MaxInflight int
	// MaxRetainedMessages bounds the retained messages of the cell.
	MaxRetainedMessages int `zero:"none"`
	// MaxRetainedBytes bounds their topics and payloads.
	MaxRetainedBytes int64 `zero:"none"`
	// MaxRetainedPerSubject bounds those of one publisher, which also take at most one part in 64 of MaxRetainedBytes.
	MaxRetainedPerSubject int
	// MaxExpiry is the longest that a session outlives its connection, and what a 3.1.1 client
	// with clean session 0 gets.
	MaxExpiry time.Duration `zero:"no longer than the connection"`
}

// DB is what the manager needs of a *statefile.DB. Tests have one that is slow, and one that is full.
type DB interface {
	Update(fn func(*statefile.Tx) error) error
	View(fn func(*statefile.Tx) error) error
}

// Overflow is a policy for a full queue.
type Overflow uint8

// The policies.
const (
	// DropNewest refuses the new message.
	DropNewest Overflow = iota
	// DropOldest drops the oldest message that was not yet sent; a message in flight never gives way.
	DropOldest
)

// Journal is what the manager needs of the journal, whose package it does not import.
type Journal interface {
	// Append appends records as the journal's own Append does, with nobody waiting for durability.
	Append(recs []message.Record) (last uint64, err error)
	// Last is the highest sequence appended.
	Last() uint64
	// Epoch identifies the journal: positions and sequences are void under another.
	Epoch() uint64
}

// Index maps topics to subscribers and keeps the retained messages in memory: *broker.Index, on mochi, which is for the
// package broker alone. The manager restores both
// when it opens, so the index persists nothing. It must be safe for concurrent use; it must not call the
// manager from within its methods but for Manager.Connected.
type Index interface {
	// Subscribe adds or replaces a subscription; $share/{group}/{filter} filters are shared among the clients of one role and
	// issuer. It begins after the record since; one that is replaced goes on.
	Subscribe(client string, sub Subscription, since uint64)
	// Unsubscribe removes one.
	Unsubscribe(client, filter string)
	// Match calls fn once for every client that is to get the message: a shared group is
	// resolved to one of its members (Manager.Connected tells which are connected: prefer these), and
	// a client's overlapping subscriptions are merged into one, but for those with no local when the client is
	// the publisher (rec.Client), and those that begin after it. fn does not keep its arguments' slices.
	Match(rec *message.Record, fn func(client string, m Matched))
	// Member picks a member of the group to which a client's shared filter belongs, as Match does; false when it has none.
	Member(filter, of string) (client string, sub Subscription, ok bool)
	// Count is the number of subscriptions.
	Count() int
	// Retain stores a retained message under its topic, or removes it when the payload is empty. The index may
	// keep msg, which shares no memory with others and does not change any more.
	Retain(msg *message.Record)
	// Retained calls fn for retained messages whose topics match the filter (without $share). It looks at about most
	// topics and leaves in at where it has stopped; more tells that there are others. What is retained meanwhile may be
	// left out. fn must not change the record.
	Retained(filter string, at *RetainedAt, most int, fn func(msg *message.Record)) (more bool)
}

// RetainedAt is a place among the retained messages; the zero value is their beginning.
type RetainedAt struct{ Branch, Slot int }

// Matched is what a client's matching subscriptions amount to.
type Matched struct {
	// QoS is the highest of them.
	QoS byte
	// RetainAsPublished is set when one of them has it.
	RetainAsPublished bool
	// IDs are their subscription identifiers, 0 left out.
	IDs []uint32
	// Shared are the shared filters among them.
	Shared []string
}

// Subscription is one topic filter of a client with its options (MQTT 5, 3.8.3.1).
type Subscription struct {
	Filter            string
	ID                uint32 // subscription identifier, 0 none
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send retained, 1 only for a new subscription, 2 never
}

// Permissions decide per topic; they are immutable and safe for concurrent use. *auth.Permissions has them, and
// belongs to a package that this one does not import.
type Permissions interface {
	Publish(topic string) bool
	Subscribe(filter string) bool // $share included
	Receive(topic string) bool
	// Withheld reports of a filter that Subscribe refuses whether it is granted, and an explicit denial takes it away. The
	// client then gets reason 0x80, unspecified: it is not told why (MQTT 5, 3.9.3). Otherwise it is 0x87, not authorized.
	Withheld(filter string) bool
}

// Outbound is the outgoing side of one of the broker's connections. No method blocks, and none calls into the session:
// they are called with the session's lock held.
type Outbound interface {
	// Enqueue offers one whole frame, which is copied before the return. False means that there is no room:
	// the session keeps the message and tries again when Session.Writable is called, which must follow.
	Enqueue(frame []byte) bool
	// Kick starts the end of the connection with a DISCONNECT of that reason code, and a Server Reference if it is not empty
	// (MQTT 5, 3.14.2.2.5); on 3.1.1 it is closed. It may be called more than once.
	Kick(reason byte, serverRef string)
	// Drained is closed once the connection has made its last journal append, will make no more, and has
	// called Session.Detach: a new connection of the client begins after that.
	Drained() <-chan struct{}
}

// Will is a client's will (MQTT 5, 3.1.3.2 and 3.1.3.3).
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Delay   time.Duration
	Props   message.Properties
}

// Attach is a connection that has been authenticated and asks for its session.
type Attach struct {
	// Key names the session (see message.SessionKey): of a vehicle, its VIN.
	Key     string
	Version byte // 4 for MQTT 3.1.1, 5
	// CleanStart discards an existing session (3.1.1: clean session).
	CleanStart bool
	// Expiry is how long the session outlives the connection; 0 not at all. For 3.1.1 give 0 with clean
	// session 1 and MaxExpiry with 0. Options.MaxExpiry limits it; see Session.Expiry.
	Expiry time.Duration
	// ReceiveMaximum is the client's; 0 means 65,535.
	ReceiveMaximum uint16
	// MaxPacket is the client's Maximum Packet Size in bytes; 0 is no limit.
	MaxPacket uint32
	// AliasMaximum is the client's Topic Alias Maximum; 0 allows none.
	AliasMaximum uint16
	// Vehicle marks a client whose identifier is its VIN: at most QoS 1 is granted, and filters below its
	// own v1/{id}/cmd and v1/{id}/sys stay out of the Index.
	Vehicle bool
	// Owner is whose bounds the session counts towards: a session key with the subject for a client identifier.
	// Empty: ownerOfClient.
	Owner Owner
	Perm  Permissions
	Will  *Will
	Conn  Outbound
	// NotAfter is the token's end: a will that is due later is not sent. Zero is no end.
	NotAfter time.Time

	claim    uint64 // what the cell calls the connection
	ready    <-chan struct{}
	replaces bool // the cell has a session that this one takes the place of
}

// Presence is one change of a client's connection. Of one client they come in order, Epoch rising with
// every connection: connected, ready at most once, and the end.
type Presence struct {
	Key       string
	Vehicle   bool
	Connected bool
	// Ready tells that the client, which was connected before, can be sent commands.
	Ready bool
	// Epoch numbers the client's connections within this process, beginning at 1.
	Epoch uint32
	At    time.Time
	// Reason of a disconnect.
	Reason Reason
}

// Reason is why a connection ended.
type Reason string

// The reasons. A client's own DISCONNECT is ReasonClient, whatever its code.
const (
	ReasonClient    Reason = "client"
	ReasonLost      Reason = "lost" // the connection broke, or the client closed it without a word
	ReasonKeepalive Reason = "keepalive"
	ReasonTakeover  Reason = "takeover"
	ReasonAdmin     Reason = "admin"
	ReasonDrain     Reason = "drain"
	ReasonMoved     Reason = "moved" // an operator sent it elsewhere
	ReasonShutdown  Reason = "shutdown"
	ReasonRefused   Reason = "refused" // what it sent, or its token's end
)

// Info describes a session for the HTTP API.
type Info struct {
	Key       string
	Vehicle   bool
	Connected bool
	Version   byte
	// Since is when the client connected or, if it is not connected, disconnected.
	Since time.Time
	// Expiry is how long the session outlives its connection.
	Expiry time.Duration
	// EndsAt is when the session of a client that is not connected ends; zero never.
	EndsAt        time.Time
	TokenEnds     time.Time
	Subscriptions []Subscription
	// Ready tells that the client is connected and subscribed to its commands.
	Ready        bool
	Queued       int // messages waiting, not sent
	Inflight     int // messages sent and not acknowledged
	QueuedBytes  int64
	IncomingQoS2 int // identifiers of QoS 2 messages that the client has not released
	HasWill      bool
}

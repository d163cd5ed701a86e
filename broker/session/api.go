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

// maxClientIDBytes is the longest client identifier that can have a session. maxKeyBytes is the longest session key,
// which is also a key of the state file.
const (
	maxClientIDBytes = 1024
	maxKeyBytes      = 4096
)

// Errors of Attach and Deliver, and those passed to a Delivery's Failed.
var (
	// errNoSession means that the client has no session.
	errNoSession = errors.New("no session")
	// ErrNotSubscribed means that no subscription of the client matches the message's topic.
	ErrNotSubscribed = errors.New("not subscribed")
	// errNotConnected means that the subscription has QoS 0 and the client is not connected, so the message cannot be
	// queued.
	errNotConnected = errors.New("not connected")
	// errQueueFull means that the client's queue, or all queues together, have reached a bound.
	errQueueFull = errors.New("queue full")
	// errExpired means that the message expired before it was sent.
	errExpired = errors.New("message expired")
	// ErrTooLarge means that the message exceeds the Maximum Packet Size that the client announced.
	ErrTooLarge = errors.New("message exceeds the client's maximum packet size")
	// errNotPermitted means that the client's permissions do not allow it to receive the message.
	errNotPermitted = errors.New("not permitted")
	// errSessionEnded means that the session ended (expiry, clean start, purge) before the message was acknowledged.
	errSessionEnded = errors.New("session ended")
	// ErrWillNotPermitted means that the client may not publish to the will's topic.
	ErrWillNotPermitted = errors.New("will topic not permitted")
	// ErrWillTopic means that the will's topic has more levels than MaxTopicLevels.
	ErrWillTopic = errors.New("will topic has too many levels")
	// ErrSessions means that the owner has reached its limit of sessions.
	ErrSessions = errors.New("the subject has reached its number of sessions")
	// errRetained means that the publisher's share of retained messages, or the room for all of them, is used up.
	errRetained = errors.New("no room for another retained message")
	// ErrTakeover wraps the context's error when an older connection of the client did not end in time.
	ErrTakeover = errors.New("the older connection has not ended")
	// errClientID means that the client identifier is empty or longer than maxClientIDBytes, or that the key is longer
	// than maxKeyBytes.
	errClientID = errors.New("client identifier empty or too long")
	// errClosed means that the manager is closed.
	errClosed = errors.New("session manager closed")
)

// Options configure a Manager.
type Options struct {
	// DB is the gateway's state file. The manager uses the bucket "mqtt" and does not close the file.
	DB DB
	// Index finds the subscribers of a topic and keeps retained messages.
	Index Index
	// Journal appends wills and reports its last sequence.
	Journal Journal
	// Issuer is the cell's own issuer. Service sessions stored before keys contained the issuer are assigned to it.
	Issuer string
	// Log receives state changes that an operator should see.
	Log     *slog.Logger
	Metrics *Metrics
	// Now is elapsed time, unaffected by steps of the wall clock (clock.Clock.Now); sessions, wills and messages expire
	// by it. Wall is the wall clock, used for timestamps and the ends of tokens.
	Now  func() time.Time
	Wall func() time.Time
	// DiskShort reports whether only the disk space reserved for commands is left. The manager then queues nothing for
	// subscribers that would have to be written. It must return quickly.
	DiskShort func() bool
	// Rejected is called with the reason of every refusal that counts in rejected_total.
	Rejected func(reason string)
	// Cell shares the vehicles' sessions with the cell's other gateways.
	Cell Cell `zero:"this is the only gateway"`

	// Bounds can be replaced while the manager runs, see Manager.SetBounds.
	Bounds
	// CommitInterval is how long a change without a waiter may stay out of the state file: queue contents that the
	// journal still has, removals, QoS 2 identifiers, the fan-out position.
	CommitInterval time.Duration
}

// Bounds are the limits of sessions.
type Bounds struct {
	// MaxQueuedMessages bounds the messages of one session, waiting and in flight.
	MaxQueuedMessages int
	// MaxQueuedBytes bounds the topics, payloads and properties of these messages.
	MaxQueuedBytes int64
	// MaxTotalBytes bounds the same over all sessions. A quarter of it is reserved for directed messages (commands);
	// copies for subscribers never use it.
	MaxTotalBytes int64
	// MaxPerSubject, MaxSubscriptionsPerSubject and MaxQueuedBytesPerSubject bound all sessions of one owner together:
	// the number of sessions, the filters (a filter counts once per eight levels or part thereof), and the queued
	// bytes. The queued bytes also never exceed what is left for all other owners.
	MaxPerSubject              int
	MaxSubscriptionsPerSubject int
	MaxQueuedBytesPerSubject   int64
	// MaxTopicLevels bounds the levels of topics and filters.
	MaxTopicLevels int
	// Overflow selects the message that is dropped when a session's queue is full.
	Overflow Overflow `zero:"the newest"`
	// MaxSubscriptions bounds the filters of one session, whose total size is limited to 256 KiB.
	MaxSubscriptions int
	// MaxInflight bounds the unacknowledged messages towards one client, whatever Receive Maximum it
	// announces.
	MaxInflight int
	// MaxRetainedMessages bounds the retained messages of the cell.
	MaxRetainedMessages int `zero:"none"`
	// MaxRetainedBytes bounds the topics and payloads of the retained messages.
	MaxRetainedBytes int64 `zero:"none"`
	// MaxRetainedPerSubject bounds the retained messages of one publisher, which also take at most 1/64 of
	// MaxRetainedBytes.
	MaxRetainedPerSubject int
	// MaxExpiry is the longest time that a session outlives its connection. It is also the expiry of 3.1.1 sessions
	// with clean session 0.
	MaxExpiry time.Duration `zero:"no longer than the connection"`
}

// DB is the part of *statefile.DB that the manager uses. Tests replace it with slow and full ones.
type DB interface {
	Update(fn func(*statefile.Tx) error) error
	View(fn func(*statefile.Tx) error) error
}

// Overflow is the policy for a full queue.
type Overflow uint8

// The policies for a full queue.
const (
	// DropNewest refuses the new message.
	DropNewest Overflow = iota
	// DropOldest drops the oldest message that has not been sent. Messages in flight are never dropped.
	DropOldest
)

// Journal is the part of the journal that the manager uses; this package does not import the journal.
type Journal interface {
	// Append appends records like the journal's own Append, without waiting for durability.
	Append(recs []message.Record) (last uint64, err error)
	// Last returns the highest sequence appended.
	Last() uint64
	// Epoch identifies the journal. Positions and sequences of another epoch are void.
	Epoch() uint64
}

// Index maps topics to subscribers and keeps the retained messages in memory. *broker.Index implements it with mochi,
// which only the package broker may import. The index persists nothing: the manager restores it on Open. It must be
// safe for concurrent use, and its methods may call no method of the manager except Connected.
type Index interface {
	// Subscribe adds or replaces a subscription. $share/{group}/{filter} filters are shared among the clients of one
	// role and issuer. A new subscription begins after the record since; a replaced one continues.
	Subscribe(client string, sub Subscription, since uint64)
	// Unsubscribe removes a subscription.
	Unsubscribe(client, filter string)
	// Match calls fn once for every client that gets the message. A shared group is resolved to one of its members,
	// preferably a connected one (Manager.Connected). Overlapping subscriptions of a client are merged into one,
	// without those that have No Local set when the client is the publisher (rec.Client) and those that begin after the
	// record. fn must not keep the slices.
	Match(rec *message.Record, fn func(client string, m Matched))
	// Member picks a member of the group of a shared filter that the client of has subscribed to, as Match does. ok is
	// false if the group has no member.
	Member(filter, of string) (client string, sub Subscription, ok bool)
	// Count returns the number of subscriptions.
	Count() int
	// Retain stores a retained message under its topic, or removes it when the payload is empty. The index may keep
	// msg: it shares no memory and no longer changes.
	Retain(msg *message.Record)
	// Retained calls fn for retained messages whose topics match the filter (without $share). It visits about most
	// topics, stores in at where it stopped, and returns more when there are others. It may miss messages that are
	// retained meanwhile. fn must not change the record.
	Retained(filter string, at *RetainedAt, most int, fn func(msg *message.Record)) (more bool)
}

// RetainedAt is a position among the retained messages. The zero value is the beginning.
type RetainedAt struct{ Branch, Slot int }

// Matched is the merged result of a client's matching subscriptions.
type Matched struct {
	// QoS is the highest QoS of the subscriptions.
	QoS byte
	// RetainAsPublished is set if any of the subscriptions has it.
	RetainAsPublished bool
	// IDs are the subscription identifiers, without 0.
	IDs []uint32
	// Shared lists the shared filters among the subscriptions.
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

// Permissions decide per topic. They are immutable and safe for concurrent use. *auth.Permissions implements them; this
// package does not import auth.
type Permissions interface {
	Publish(topic string) bool
	Subscribe(filter string) bool // $share included
	Receive(topic string) bool
	// Withheld reports whether a filter that Subscribe refuses is granted but overridden by an explicit denial. The
	// client then gets reason 0x80 (unspecified), which does not reveal why (MQTT 5, 3.9.3), instead of 0x87 (not
	// authorized).
	Withheld(filter string) bool
}

// Outbound is the outgoing side of a connection. Its methods are called with the session's lock held: they must not
// block or call the session.
type Outbound interface {
	// Enqueue offers one whole frame, which it copies before it returns. It returns false when there is no room; the
	// session then keeps the message and tries again on Session.Writable, which the connection must call.
	Enqueue(frame []byte) bool
	// Kick starts to end the connection with a DISCONNECT of the reason code, and a Server Reference if it is not empty
	// (MQTT 5, 3.14.2.2.5). A 3.1.1 connection is closed without one. It may be called more than once.
	Kick(reason byte, serverRef string)
	// Drained is closed when the connection has made its last journal append and called Session.Detach. A new
	// connection of the client begins only after that.
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

// Attach describes an authenticated connection that asks for its session.
type Attach struct {
	// Key names the session (see message.SessionKey). For a vehicle it is the VIN.
	Key     string
	Version byte // 4 for MQTT 3.1.1, 5
	// CleanStart discards an existing session (3.1.1: clean session).
	CleanStart bool
	// Expiry is how long the session outlives the connection; 0 means not at all. For 3.1.1, pass 0 with clean session
	// 1 and MaxExpiry with clean session 0. Options.MaxExpiry limits it; see Session.Expiry.
	Expiry time.Duration
	// ReceiveMaximum is the client's Receive Maximum; 0 means 65,535.
	ReceiveMaximum uint16
	// MaxPacket is the client's Maximum Packet Size in bytes; 0 means no limit.
	MaxPacket uint32
	// AliasMaximum is the client's Topic Alias Maximum; 0 allows no alias.
	AliasMaximum uint16
	// Vehicle marks a client whose identifier is its VIN. It is granted at most QoS 1, and filters below its own
	// v1/{id}/cmd and v1/{id}/sys are not added to the Index.
	Vehicle bool
	// Owner is the owner whose bounds the session counts towards, in the form of a session key with the subject as
	// client identifier. If empty, ownerOfClient is used.
	Owner Owner
	Perm  Permissions
	Will  *Will
	Conn  Outbound
	// NotAfter is the end of the token: a will that is due later is not sent. Zero means no end.
	NotAfter time.Time

	claim    uint64 // the connection's number in the cell
	epoch    func() uint64
	ready    <-chan struct{}
	replaces bool // this session replaces one that the cell has
	adopted  bool // the session is from another gateway
}

// Presence is one change of a client's connection. The changes of one client come in order: connected, ready at most
// once, disconnected. Epoch rises with every connection.
type Presence struct {
	Key       string
	Vehicle   bool
	Connected bool
	// Ready is set when the client, already connected, can be sent commands.
	Ready bool
	// Epoch numbers the client's connections within this process, starting at 1.
	Epoch uint32
	// Claim is the Number of the connection's claim in the cell; 0 without one.
	Claim uint64
	At    time.Time
	// Reason says why the client disconnected.
	Reason Reason
}

// Reason is why a connection ended.
type Reason string

// The reasons. The client's own DISCONNECT is ReasonClient, whatever its code.
const (
	ReasonClient    Reason = "client"
	ReasonLost      Reason = "lost" // the connection broke, or the client closed it without DISCONNECT
	ReasonKeepalive Reason = "keepalive"
	ReasonTakeover  Reason = "takeover"
	ReasonAdmin     Reason = "admin"
	ReasonDrain     Reason = "drain"
	ReasonMoved     Reason = "moved" // an operator moved the client to another server
	ReasonShutdown  Reason = "shutdown"
	ReasonRefused   Reason = "refused" // because of what the client sent, or its token ended
)

// Info describes a session for the HTTP API.
type Info struct {
	Key       string
	Vehicle   bool
	Connected bool
	Version   byte
	// Since is when the client connected, or disconnected if it is not connected.
	Since time.Time
	// Expiry is how long the session outlives its connection.
	Expiry time.Duration
	// EndsAt is when the session of a disconnected client ends; zero means never.
	EndsAt        time.Time
	TokenEnds     time.Time
	Subscriptions []Subscription
	// Ready reports whether the client is connected and subscribed to its commands.
	Ready        bool
	Queued       int // messages waiting, not sent
	Inflight     int // messages sent and not acknowledged
	QueuedBytes  int64
	IncomingQoS2 int // identifiers of QoS 2 messages that the client has not released
	HasWill      bool
}

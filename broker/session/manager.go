package session

import (
	"context"
	"time"

	"cellgate/broker/message"
)

// Manager owns all sessions of the gateway. It is safe for concurrent use.
type Manager struct{}

// Open loads the sessions of the state file and restores their subscriptions, and the retained messages,
// into the index. Sessions that were connected when the process died count as disconnected from now on.
func Open(o Options) (*Manager, error) { return &Manager{}, nil }

// Close writes what is not written yet and stops the manager's goroutines. Connections are to be detached
// before.
func (m *Manager) Close(ctx context.Context) error { return nil }

// Attach gives the connection its session. An older connection of the client identifier is kicked and
// awaited first; attaches of one client identifier are serialised. present tells that an existing session
// was resumed. It returns after everything that must survive the CONNACK is durable: a new session that
// outlives its connection, and the end of an old one that a clean start discards.
//
// Nothing is sent to the connection until Session.Start.
//
// Errors: ErrWillNotPermitted, ErrTakeover (with the context's error), ErrClosed, the context's error.
func (m *Manager) Attach(ctx context.Context, a Attach) (s *Session, present bool, err error) {
	return nil, false, nil
}

// Fanout delivers one durable PUBLISH to all matching subscriptions and keeps the retained message. It is
// called in journal order by the fan-out loop alone, never waits for a client or the disk, and copies what
// it keeps of rec.
func (m *Manager) Fanout(rec *message.Record) {}

// Advance notes that every record up to seq has been fanned out or needs none.
func (m *Manager) Advance(seq uint64) {}

// Checkpoint is Advance, and returns when the position is durable together with the queues.
func (m *Manager) Checkpoint(seq uint64) error { return nil }

// Position is the durable fan-out position: after a restart the fan-out resumes behind it. 0 is the
// beginning of the journal.
func (m *Manager) Position() uint64 { return 0 }

// ReplayFrom is the first sequence that the start-up replay must read: at most Position()+1.
func (m *Manager) ReplayFrom() uint64 { return 0 }

// Replay restores the QoS 2 identifiers that clients use from one journal record. The fan-out loop calls it at
// start-up, before any Attach, for all records from ReplayFrom, in order.
func (m *Manager) Replay(rec *message.Record) {}

// Deliver queues a message for one client. Errors: ErrNoSession, ErrNotSubscribed, ErrNotConnected,
// ErrQueueFull, ErrExpired; then no callback is called.
func (m *Manager) Deliver(clientID string, d *Delivery) error { return nil }

// OnReady sets a function that is called when a client is connected and has a subscription, new or resumed,
// that matches its v1/{id}/cmd topics. Set it before the first Attach.
func (m *Manager) OnReady(fn func(clientID string)) {}

// OnPresence sets a function that is called for every connect and disconnect. Set it before the first Attach.
func (m *Manager) OnPresence(fn func(Presence)) {}

// Connected reports whether the client has a connection.
func (m *Manager) Connected(clientID string) bool { return false }

// Get describes a client's session.
func (m *Manager) Get(clientID string) (Info, bool) { return Info{}, false }

// List describes up to limit sessions with identifiers behind after, in order.
func (m *Manager) List(after string, limit int) []Info { return nil }

// Disconnect ends a client's connection with a reason code, and a server reference if there is one. It
// reports whether the client was connected.
func (m *Manager) Disconnect(clientID string, reason byte, serverRef string) bool { return false }

// Purge ends a client's connection and its session with all that is queued. It reports whether there was a
// session.
func (m *Manager) Purge(clientID string) bool { return false }

// Session is one connection's hold on its session. Once another connection has taken the session over, or
// after Detach, its methods do nothing. It is safe for concurrent use.
type Session struct{}

// Start begins the delivery: the connection calls it once the CONNACK is queued.
func (s *Session) Start() {}

// Expiry is how long the session outlives the connection: what was asked, within the manager's limit.
func (s *Session) Expiry() time.Duration { return 0 }

// Subscribe adds subscriptions and calls done with a reason code of MQTT 5 per filter (granted QoS or
// failure) when they are durable, which for a session without expiry is before Subscribe returns.
// Deliveries to the client pause until then, so that done can queue the SUBACK before retained messages.
// done must not block. id is the subscription identifier, 0 none.
func (s *Session) Subscribe(subs []Subscription, id uint32, done func(codes []byte)) {}

// Unsubscribe removes subscriptions; done is called as by Subscribe.
func (s *Session) Unsubscribe(filters []string, done func(codes []byte)) {}

// Puback is the client's PUBACK.
func (s *Session) Puback(id uint16, code byte) {}

// Pubrec is the client's PUBREC. The session answers with a PUBREL by itself.
func (s *Session) Pubrec(id uint16, code byte) {}

// Pubcomp is the client's PUBCOMP.
func (s *Session) Pubcomp(id uint16, code byte) {}

// Writable tells that the connection's queue has room again after Enqueue has returned false.
func (s *Session) Writable() {}

// SetPermissions replaces the permissions and the token's end after a token refresh.
func (s *Session) SetPermissions(p Permissions, notAfter time.Time) {}

// Detach ends the connection's hold on the session, after its last journal append. normal means that the client
// sent DISCONNECT 0x00: the will is discarded. expiry, when not nil, replaces the session's expiry
// (MQTT 5, 3.14.2.2.2).
func (s *Session) Detach(normal bool, expiry *time.Duration) {}

// ReceiveQoS2 notes the packet identifier of a QoS 2 PUBLISH from the client, before its journal append.
// duplicate means that the identifier is in use: the message is in the journal, or on its way to it, and must
// not be appended again.
func (s *Session) ReceiveQoS2(id uint16) (duplicate bool) { return false }

// JournaledQoS2 tells the journal sequence of a QoS 2 PUBLISH that ReceiveQoS2 has noted; the connection
// calls it right after the append. Only from then on is the identifier persisted.
func (s *Session) JournaledQoS2(id uint16, seq uint64) {}

// CancelQoS2 forgets an identifier whose append failed.
func (s *Session) CancelQoS2(id uint16) {}

// ReleaseQoS2 frees the identifier on the client's PUBREL. known is false when it was not in use (MQTT 5:
// PUBCOMP 0x92).
func (s *Session) ReleaseQoS2(id uint16) (known bool) { return false }

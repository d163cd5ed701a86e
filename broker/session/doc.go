// Package session keeps MQTT session state and is the only delivery engine towards clients.
//
// A session belongs to a client identifier (for a vehicle, its VIN) and may outlive many connections. It holds the
// client's subscriptions, its durable outgoing queue, the in-flight window with the server's packet identifiers, the
// QoS 2 identifiers that the client uses towards the server, and its will. Commands to vehicles (Manager.Deliver) and
// messages to subscribers (Manager.Fanout) are subject to the same rules: bounded queue, Receive Maximum, order,
// resume, expiry.
//
// Guarantees:
//
//   - A message of QoS 1 or 2 that was fanned out to a session which outlives its connection is sent until the client
//     acknowledges it, the message or the session expires, or a bound drops it, which is counted. It survives
//     kill -9: the fan-out position is written together with the last of the queued messages.
//   - Messages of one session leave in the order in which they were queued, urgent ones first. A resume repeats what
//     was in flight, in order, with DUP and the same packet identifiers.
//   - Towards a session that outlives its connection, QoS 2 is exactly once, also across kill -9.
//   - No message is sent that the client's current permissions do not allow it to receive.
//   - Connections of one client identifier are serialised: the old one has made its last journal append before the new
//     one gets its CONNACK.
//   - Nothing here touches a socket, and only Attach waits for the disk. A client that stalls uses up its own bounded
//     queue only.
//   - A session with expiry 0 uses no disk. An idle vehicle session with one subscription uses less than 1 KB and no
//     goroutine.
//
// State is stored in one bucket of the gateway's bbolt file (format: codec.go), written by one goroutine in small
// transactions: see writer.
//
// Lock order, outermost first: the attach gate of a client identifier, Manager.fan.mu, state.mu, then locks under which
// no other is taken: those of the registry, the writer, the timers, the shares, the retained messages and the Index.
// Callbacks (done functions, Delivery and Manager hooks) run without any lock held.
//
// Users: broker attaches connections and runs the fan-out loop; broker/command delivers through it; the HTTP API reads
// Info.
package session

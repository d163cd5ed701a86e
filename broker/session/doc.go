// Package session keeps what MQTT calls session state, and is the one delivery engine towards clients.
//
// A session belongs to a client identifier (a vehicle's is its VIN) and may outlive many connections.
// It holds the client's subscriptions, its durable outgoing queue, the in-flight window with the
// packet identifiers of the server's own number space, the QoS 2 identifiers that the client uses
// towards the server, and its will. Commands to vehicles (Manager.Deliver) and messages to subscribers
// (Manager.Fanout) take the same road: bounded queue, Receive Maximum, order, resume, expiry.
//
// What it promises:
//
//   - A message of QoS 1 or 2 that was fanned out to a session which outlives its connection is sent
//     until the client acknowledges it, the message or the session expires, or a bound that is counted
//     drops it. It survives kill -9: the fan-out position is written with the last of what is in the queues.
//   - Messages of one session leave in the order in which they were given, urgent ones first. A resume repeats what was in
//     flight, in order, with DUP and the same packet identifiers.
//   - Towards a session that outlives its connection QoS 2 is exactly once also across kill -9.
//   - No message is sent that the client's permissions of that moment do not allow it to receive.
//   - Connections of one client identifier are serialised: the old one has made its last journal append
//     before the new one is told that it is connected.
//   - Nothing here touches a socket, and no call but Attach waits for the disk. A client that stalls costs
//     its own bounded queue and nothing else.
//   - A session whose expiry is 0 costs no disk. An idle vehicle session with one subscription costs less
//     than 1 KB and no goroutine.
//
// State is in one bucket of the gateway's bbolt file (see codec.go for its format), written by one
// goroutine in small transactions: see writer.
//
// Lock order, outermost first: the attach gate of a client identifier, Manager.fan.mu, state.mu, then
// leaves that call nothing: the registry's, the writer's, the timers', the shares', the retained messages' and the Index's own
// lock. Callbacks
// (done functions, Delivery and Manager hooks) run with no lock held.
//
// Users: broker attaches connections and runs the fan-out loop; broker/command delivers through it; the
// HTTP API reads Info.
package session

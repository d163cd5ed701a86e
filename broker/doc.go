// Package broker serves MQTT clients: listeners, handshake, connections, and the uplink into the journal.
//
// A PUBLISH takes this path: listener.go accepts, admission.go and handshake.go handle limits and TLS, connect.go the
// CONNECT, reader.go reads, uplink.go checks and appends to the journal, acks.go queues the acknowledgement until it is
// due, writer.go writes.
//
// Invariants:
//
//   - No acknowledgement of QoS 1 or 2 leaves before the record is durable (Options.Ack can weaken or strengthen
//     that), and none leaves on an error path. They leave in the order of the PUBLISHes.
//   - Nothing that a client sends is handled before its CONNACK 0 is queued, after its DISCONNECT, or before the
//     frame scanner has accepted it.
//   - Only the connection's writer writes to its socket, and nothing else waits for it: a client that does not
//     read affects only itself.
//   - Every buffer, queue and wait is bounded, and every refusal counts in rejected_total.
//
// mochi-mqtt is used as a library: its packet codec, after the scanner, and its topic index. Only this package imports
// it. DECISIONS.md lists its pitfalls and how they are avoided.
package broker

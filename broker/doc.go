// Package broker serves MQTT clients: listeners, handshake, connections, and the uplink into the journal.
//
// The path of a PUBLISH is the order of the files: listener.go accepts, admission.go and handshake.go take the
// socket through limits and TLS, connect.go through CONNECT, reader.go reads, uplink.go checks and appends to the
// journal, acks.go keeps what waits for the durable mark, writer.go writes.
//
// What it promises:
//
//   - No acknowledgement of QoS 1 or 2 leaves before the record is durable (Options.Ack can weaken or
//     strengthen that), and none leaves on an error path. They leave in the order of the PUBLISHes.
//   - Nothing a client sends is handled before its CONNACK 0 is queued, nothing after its DISCONNECT, and
//     nothing at all before the frame scanner has accepted it.
//   - Nobody writes to a socket but that connection's writer, and nobody else waits for it: a client that
//     does not read costs itself alone.
//   - Every buffer, queue and wait is bounded, and every refusal counts in rejected_total.
//
// mochi-mqtt is used as a library: its packet codec, behind the scanner, and its topic index. This is the only
// package that imports it. DECISIONS.md tells how its pitfalls are kept out of reach.
package broker

// Package dev runs a whole gateway with nothing installed: an embedded Kafka-protocol broker for the cell
// and one for the centre, an embedded Redis-protocol server, certificates, keys, configuration and rules
// made on the first start, and a simulated fleet.
//
// The gateway's own code path is the one of `cellgate run`: only the addresses differ. The embedded parts
// are for development and tests and are reachable from nowhere else.
//
// What survives: Kafka's records, topics and group offsets are appended to files as they are written, so
// that they survive kill -9 of the process (not a power loss). Redis is saved to a file every two seconds
// when it was used, and at the stop: after kill -9 it may be that much behind.
package dev

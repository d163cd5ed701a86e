// Package frame scans the MQTT frames that clients send and encodes those that the gateway sends, for MQTT 3.1.1 and
// MQTT 5.
//
// The scanner is strict, because the code after it trusts its input. An accepted frame has legal fixed header flags,
// consistent lengths, well-formed UTF-8, only properties that the packet may have and no more often than allowed, legal
// topic names and filters, and a packet identifier where one is required. A rejected frame yields a Violation with the
// reason code of the specification.
//
// The scanner works on one whole frame in the caller's buffer, copies nothing, and allocates only the Violation. The
// declared length of a frame never causes an allocation.
package frame

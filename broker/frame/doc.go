// Package frame scans the MQTT frames that clients send and encodes those that the gateway sends, for
// MQTT 3.1.1 and MQTT 5.
//
// The scanner is strict, and it is the wall between the network and everything behind it: whatever it lets
// through has legal fixed header flags, lengths that agree, well-formed UTF-8, properties that the packet may
// have and no more often than it may, legal topic names and filters, and packet identifiers where they
// belong. What it does not let through is a Violation with the reason code of the specification.
//
// It works on one whole frame in the caller's buffer, copies nothing, and allocates nothing but the
// Violation; the length that a frame declares never makes it allocate.
package frame

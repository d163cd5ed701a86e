// Package conformance tests the gateway against the OASIS texts of MQTT 3.1.1 and 5.0: a table of every numbered
// normative statement with the test that covers it or the reason why none does, and the tests, which send raw packets
// to one running gateway. See README.md.
//
// The tests use their own codec, so that an error in the gateway's codec cannot hide itself.
package conformance

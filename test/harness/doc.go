// Package harness starts the real parts that the tests outside the packages run against: the cellgate
// binary, Kafka (Apache's, or the embedded one), Redis, Mosquitto. It reads back what arrived, with
// clients that the gateway does not use itself, and counts it.
//
// Everything listens on free loopback ports, lives in the test's temporary folder and is gone at its end.
package harness

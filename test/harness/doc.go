// Package harness starts the programs that integration tests run against: the cellgate binary, Kafka (Apache or
// embedded), Redis, Mosquitto. It reads back and counts what arrived, with clients other than the gateway's.
//
// All servers listen on free loopback ports, use the test's temporary folder and stop when the test ends.
package harness

// Package presence publishes which vehicles are connected: an event for each connect, for each vehicle that becomes
// ready for commands, and for each end of a session, with its reason.
//
// Guarantees: the events of a VIN come in order of (epoch, seq), also across restarts. Every published session gets a
// disconnected event, also when the gateway was killed. The last event of each VIN is on disk before it is published,
// so a kill never takes back a published event. While Kafka is away the events wait, all of them within a bound; beyond
// it, the end of the previous session and the present session of each VIN.
//
// Reporting an event never blocks. The package does not know Kafka: the app publishes.
package presence

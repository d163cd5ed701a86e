// Package presence tells the rest of the platform which vehicles are connected: an event for each connect, for each
// vehicle that becomes ready for commands, and for each end of a session, with its reason.
//
// It promises: the events of a VIN come in order of (epoch, seq), over restarts too; every session that was told of gets a
// disconnected, also when the gateway was killed; and what was told last of each VIN is on the disk before it is
// told, so that nothing that a kill takes away was ever said. While Kafka is away the events wait: all of them
// within a bound, beyond it the end of the last session and the present one of each VIN.
//
// It never blocks who reports an event. It knows no Kafka: the app publishes.
package presence

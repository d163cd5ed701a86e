// Package kafkaclient is what the gateway needs of Kafka beyond segmentio/kafka-go's Client: a producer
// that neither loses nor reorders, and a consumer that hands out partitions.
//
// The Producer keeps one lane per partition with one batch in flight, or up to MaxInFlight, acks=all and an idempotent
// producer id, and sends the same bytes again until the broker has taken or refused them. The
// Consumer runs one function per partition, as a member of no group, so that whoever forwards
// records decides what is committed and when.
//
// The package is a leaf: it imports nothing of the gateway. The sinks for the cell's Kafka, the sync
// worker and the command service use it.
package kafkaclient

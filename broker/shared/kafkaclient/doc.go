// Package kafkaclient adds to segmentio/kafka-go's Client what the gateway needs: a producer that neither loses nor
// reorders records, and a consumer that assigns partitions.
//
// The Producer has one writer per partition with one batch in flight, or up to MaxInFlight, acks=all and an idempotent
// producer id, and resends the same bytes until the broker takes or refuses them. The Consumer runs one function per
// partition without joining a group, so that its user decides what is committed and when.
//
// The sinks for the cell's Kafka, the sync worker and the command service use it.
package kafkaclient

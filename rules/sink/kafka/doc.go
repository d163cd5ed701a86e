// Package kafka is the sink that writes to the cell's Kafka: rule targets of kind kafka, dead letters,
// and, as a second sink with cursor and ledger of its own, central targets, which go to the outbox topics
// that the sync worker empties.
//
// Delivered means that all in-sync replicas have the record. Order is kept per key within a topic.
package kafka

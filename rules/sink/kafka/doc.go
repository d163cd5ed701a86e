// Package kafka is the sink for the cell's Kafka: rule targets of kind kafka, dead letters, and, as a second sink with
// its own cursor and ledger, central targets. These go to the outbox topics, which the sync worker forwards.
//
// Delivered means that all in-sync replicas have the record. Order is kept per key within a topic.
package kafka

// Package syncer forwards selected data from the cell to the central unit. It reads its partitions of the outbox topics
// in the cell's Kafka and writes each record to the topic of the central Kafka that its header central-topic names.
//
// Delivery is at least once: an offset is committed only when the central Kafka has the record on all in-sync replicas.
// The order of each outbox partition is kept. p0 precedes p1, and p1 p2, where the bandwidth is limited, by
// Options.Limits or by the link. While either Kafka is away the worker waits; the backlog is in the cell's Kafka, and
// memory is bounded by Options.Memory. Where records were removed before they were read, their lane stops until Skip.
// An unknown lag is never reported as 0.
//
// The package needs only Kafka. The app starts it in every gateway with a central unit.
package syncer

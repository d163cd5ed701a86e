// Package syncer forwards selected data from the cell to the central unit: it reads the outbox topics of
// the cell's Kafka, all partitions that are its own, and writes each record to the topic of the central
// Kafka that its header central-topic names.
//
// It promises: at least once (an offset is committed only when the central Kafka has the record on all
// in-sync replicas), in the order of each outbox partition, p0 before p1 before p2 where the bandwidth
// is limited, by Options.Limits or by the link, and to wait for as long as either Kafka is away. The backlog is the
// cell's Kafka's; memory is bounded by Options.Memory. Where records are gone before they were read, their lane stops until
// Skip. A lag that is not known is never told as 0.
//
// The package knows Kafka alone. The app starts it in every gateway that has a central unit.
package syncer

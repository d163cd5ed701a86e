// Package journal is the durable log of accepted messages. Every message is written to it before it is acknowledged.
//
// Guarantees: a record whose sequence is at most Durable is on disk. It is read back unchanged and in order until every
// consumer named by Retain has passed it, whatever happens to the process, the operating system or the power. Records
// lost by the medium are reported with their place, never skipped silently. Appending does not wait for the disk: one
// goroutine writes and syncs the records gathered since its last commit, and only then moves the durable mark. A failed
// write or sync is final: the journal refuses everything from then on.
//
// The broker appends and acknowledges. The fan-out, the rules and the sinks read, each with its own cursor. broker/wal
// documents the file format, DECISIONS.md the reasons for it.
package journal

// Package journal is the durable log that every accepted message goes through before it is
// acknowledged.
//
// It promises: a record whose sequence is at most Durable is on disk and is read back unchanged, in
// order, until every consumer named by Retain has passed it, whatever happens to the process, to the
// operating system or to the power in between; what cannot be read back because the medium lost it is
// reported with its place and never passed over in silence. Appending does not wait for the disk; one
// goroutine writes and syncs what has gathered since its last commit, and only then the durable mark
// moves. A failed write or sync is final: the journal refuses everything from then on.
//
// The broker appends and acknowledges; the fan-out, the rules and the sinks read, each with a cursor of
// its own. broker/wal draws the files, DECISIONS.md says why they look like this.
package journal

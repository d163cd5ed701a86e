// Package wal is the common part of all logs: format.go defines segments and batches, Window and Scan read them and
// distinguish damage from a torn end, FS is the file system below. The journal is built of these parts.
//
// Log is a complete log on top of them, for owners that record elsewhere how far it is valid: decisions, parked
// messages, operator state. The owner of a segment, a batch or a Position is part of each: see Identity.
package wal

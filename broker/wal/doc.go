// Package wal is what the logs on the disk have in common: format.go draws their segments and batches, Window and Scan read them and
// tell damage from a torn end, FS is the file system below them. The journal is built of these parts.
//
// Log is a whole log on top of them, for owners that write down elsewhere how far it counts: decisions, parked messages, operators'
// state. Whose log a segment, a batch or a Position is of is a part of each: see Identity.
package wal

// Package statefile is the gateway's one state file: a bbolt file with a checksum for every value.
//
// bbolt has checksums only for its two meta pages. A flipped bit elsewhere goes unnoticed: values change, a count in a
// page header hides keys, a page number leads to a page of an earlier transaction, and some damage makes bbolt panic,
// also in its own goroutines. This package guarantees instead:
//
//   - Open reads the whole file before bbolt does, and refuses a damaged one with an error that wraps ErrDamaged and names the file, the
//     place and the remedy. It never panics.
//   - Every value has a CRC-32C over its bucket's path, its key and itself, checked at every read: a View or Update that finds a wrong
//     one ends with ErrDamaged. A caller never sees a wrong value.
//   - Every bucket has a digest of its keys, values and sequence, written in the transaction that changes it: Open
//     finds keys that have vanished, reappeared or reverted.
//   - A panic of bbolt, or a fault of the mapped file, in a View or Update is returned as ErrDamaged; the DB then takes no more
//     transactions.
//   - If one of the two meta pages is unreadable the file opens with the other one, and FellBack reports it. Close
//     leaves both with the same content, so that after a clean stop nothing is lost.
//
// DECISIONS.md says which damage can be distinguished from a power loss.
package statefile

// Package statefile is the gateway's one state file: a bbolt file whose every value is checked.
//
// bbolt has checksums for its two meta pages alone. A bit that flips elsewhere is read back as it is: a value is
// another one, a count in a page header makes keys vanish, a page number leads to a page of an earlier
// transaction, and some of it makes bbolt panic, in goroutines of its own too. This package promises instead:
//
//   - Open reads the whole file, before bbolt does, and refuses one that is damaged in what is read from it, with
//     an error that wraps ErrDamaged and names the file, the place and what to do. It never panics.
//   - Every value carries a CRC-32C of its bucket's path, its key and itself, checked at every read: a View or
//     Update that meets a wrong one ends there with ErrDamaged. A caller never sees a wrong value.
//   - Every bucket has a digest, written in the transaction that changes it, of the keys and values and of the
//     bucket's sequence: a key that has vanished, come back or turned old is found by Open.
//   - What bbolt itself panics with, or a fault of the mapped file, in a View or Update is returned as ErrDamaged;
//     the DB takes no more transactions then.
//   - When one of the two meta pages cannot be read the file opens with what the other one says, and FellBack
//     reports it. Close leaves both with the same content, so that nothing is lost by it after a clean stop.
//
// DECISIONS.md says which damage can and cannot be told from a power loss.
//
// Used by broker/session, broker/command, rules/sink and cmd/cellgate/app.
package statefile

// Package cell holds the state that exists once per vehicle in a cell of several gateways: owner of the connection,
// session, commands, presence. Scripts in Redis decide; the package is their client. It imports only shared packages of
// this module and makes no MQTT decisions.
//
// The folder lua has the scripts, each with its keys, arguments and answers. A vehicle's keys share the hash tag {VIN}.
// Each script also takes the mark of their slot, as Redis Cluster requires: a Redis without slots has one mark, a
// cluster one per slot.
//
// test/model searches for counterexamples to these guarantees and runs every transition of its model against the
// scripts:
//
//   - Script, WAIT and a query of the server's name are one pipeline. An unconfirmed answer is ErrUnconfirmed: it must
//     not be published or sent.
//   - A server decides commands only while it is open: after every member has offered what it remembers. A server
//     counts as another one after a restart, a promotion or a flush.
//   - If a member has lost its memory, every command accepted before and not known to be sent is in doubt.
package cell

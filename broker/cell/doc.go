// Package cell holds what is one per vehicle in a cell of several gateways: who has the connection, the session, commands and
// their states, presence. Scripts in Redis decide it; the package is their client. It imports nothing of this module but what
// is shared, and decides nothing about MQTT.
//
// The scripts lie in lua, each with its keys, arguments and answers. Keys of a vehicle share the hash tag {VIN}; beside them
// each script takes the mark of their slot, so that Redis Cluster works: a Redis without slots has one mark, a cluster one for
// each slot.
//
// What is promised, and by what, is searched for counterexamples in test/model; the same tests run every transition of that
// model against these scripts. In short:
//
//   - Script, WAIT and a look at what the server is called now are one pipeline. An answer that is not confirmed is
//     ErrUnconfirmed: nothing of it may be told or put on the wire.
//   - Commands are decided at a server only when it is open: when every member has offered what it remembers. A server is
//     another one after a restart, a promotion, and when its data was flushed.
//   - Whoever has lost its memory has everything in doubt that was accepted before and is not known to be sent.
package cell

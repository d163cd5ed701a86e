// Package command sends commands to vehicles and tracks their states.
//
// A command is accepted from the HTTP API, from a service's PUBLISH on v1/{vin}/cmd/{id}/{name}, or from the Kafka
// topic vehicle.commands. It is on disk before the sender is answered, and its state survives restarts:
//
//	queued → sent → delivered → accepted → succeeded | failed | rejected
//
// It may also become expired or cancelled. sent means that the vehicle's connection has it and the vehicle may have
// received it; delivered means that the vehicle's PUBACK has arrived; the later states are reported by the vehicle on
// v1/{vin}/res/{id}/{status}. The time to live covers a command up to its final state; a vehicle's report about an
// expired command makes it late.
//
// Guarantees:
//
//   - The commands of one vehicle are first sent in the order of acceptance.
//   - A command is sent again with the same id until the vehicle acknowledges it or it expires: at least once. Vehicles
//     ignore a known id.
//   - cancelled means that the command was never sent. The intention to send is on disk before a connection gets the
//     command, so a crash in between cannot make the answer wrong.
//   - Every change of state is an event, written in the transaction of the change and published to Kafka at least once,
//     in order per vehicle, however long Kafka is away.
//
// One goroutine owns all state and commits what has arrived since its last commit in one bbolt transaction (group
// commit). Callbacks of the delivery engine only enqueue. Open commands are bounded per vehicle and in total, finished
// ones by count and age, waiting events by count.
//
// The composition root wires Deliverer, Publish, Respond and Consumer and mounts the HTTP handlers; the fan-out loop
// passes records to Result and Command, and calls Sync before it saves its position.
package command

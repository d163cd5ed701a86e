// Package command sends commands to vehicles and keeps what became of each.
//
// A command is accepted from the HTTP API, from a service's PUBLISH on v1/{vin}/cmd/{id}/{name}, or from
// the Kafka topic vehicle.commands. It is on disk before the sender hears of it, and its state is told
// truthfully from then on, restarts included:
//
//	queued → sent → delivered → accepted → succeeded | failed | rejected
//
// and expired or cancelled. sent means that it was handed to the vehicle's connection and may have been
// received, delivered that the vehicle's PUBACK came, the rest is what the vehicle itself said on
// v1/{vin}/res/{id}/{status}. The time to live covers a command up to its final state; what a vehicle says
// about an expired command makes it late.
//
// What it promises:
//
//   - The commands of one vehicle are first sent in the order in which they were accepted.
//   - A command is sent again, with the same id, until the vehicle acknowledged it or it expired: at
//     least once, so vehicles ignore an id that they know.
//   - cancelled means that it never left. Before a command is handed to a connection that intention is
//     on disk, so a crash in between cannot make the answer a lie.
//   - Every change of state is an event, written in the transaction of the change and published to Kafka
//     at least once, in order per vehicle, for as long as Kafka is away.
//
// One goroutine owns all state and commits what arrived since its last commit in one bbolt transaction
// (group commit). Callbacks of the delivery engine only enqueue. Everything is bounded: open commands per
// vehicle and in total, finished ones by count and age, waiting events by count.
//
// Users: the composition root wires Deliverer, Publish, Respond and Consumer and mounts the HTTP handlers; the
// fan-out loop gives Result and Command their records, and calls Sync before it saves its position.
package command

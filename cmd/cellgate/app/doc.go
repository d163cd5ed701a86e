// Package app is the composition root: it wires one gateway from a configuration and owns its HTTP server.
//
// New constructs the parts in order, each from the ones before, and registers each stop next to the construction. Stops
// run in the reverse order, each with its name (lifecycle.go). Reload first does everything that can fail, and swaps
// last (reload.go). A start does not need Kafka, Redis or the centre: they may be away for days.
//
// `cellgate run` and `cellgate dev` use it; tests start a gateway in their own process with it.
package app

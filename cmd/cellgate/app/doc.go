// Package app is the composition root: it wires one gateway from a configuration and owns its HTTP
// server.
//
// New constructs every part in one straight line and registers its stop beside it; stops run in the
// reverse order, each with its name (see lifecycle.go). Reload does everything that can fail first and
// swaps last (reload.go). Nothing in a start needs Kafka, Redis or the centre: they may be away for days.
//
// `cellgate run` and `cellgate dev` use it, and tests start a gateway in their own process with it.
package app

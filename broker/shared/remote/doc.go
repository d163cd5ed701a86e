// Package remote holds what every client of a store behind a sink needs and none should have of its own:
// the health of the store as its users see it, the pause between tries, and the end of the client's
// goroutines. kafkaclient and the Redis sink use it. It imports nothing of this module.
package remote
